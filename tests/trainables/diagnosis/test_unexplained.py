"""An honest 'unexplained', with what was seen, wherever the replays separate no single cause."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall

START = 50
BASE: dict[str, Any] = {"global_batch_size": 32, "max_steps": 80, "optim": {"lr": 0.05}, "diagnosis": {"replicates": 1}}


def fault(name: str, **params: Any) -> dict[str, Any]:
    """The `faults` key with one built-in fault from step START on."""
    return {"faults": [{"use": f"trainables.faults:{name}", "start_step": START, "params": params}]}


def test_two_faults_at_once_are_unexplained(small: MakeSmall, tiny: Tiny) -> None:
    """Each alone makes the event, so neither is necessary: an honest 'unexplained' with the table as evidence."""
    both = {"faults": [*fault("shuffled_labels")["faults"], *fault("learning_rate_factor", factor=50.0)["faults"]]}
    result = small(tiny(**BASE, **both)).run()
    found = result.diagnosis
    assert found is not None
    assert (found.cause, found.group, found.remedy) == ("unexplained", "unexplained", None)
    rows = {row.ingredient: row.necessary for row in found.table}
    assert rows["labels"] == rows["learning_rate"] == "no"
    assert "no single ingredient" in found.summary


def test_a_fault_outside_the_catalogue_is_unexplained(small: MakeSmall, tiny: Tiny, tmp_path: Path) -> None:
    """Mixing is no ingredient that has a reference: where CutMix takes the whole of another image and says that it took
    nothing, the event stays with all of them and none is blamed.
    """
    (tmp_path / "epoch14_mixing_fault.py").write_text(
        "from dataclasses import replace\n"
        "from trainables.data.mixing import Mix\n"
        "def runaway(recipe):\n"
        "    return lambda i: replace(i, mix=Mix(1.0, (0, 0, 999, 999)))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        faults = {"faults": [{"use": "epoch14_mixing_fault:runaway", "start_step": START}]}
        result = small(tiny(**BASE, **faults)).run()
    found = result.diagnosis
    assert found is not None
    assert found.cause == "unexplained"
    assert found.controls.exact >= 6.0
    assert found.controls.all_reference is not None
    assert found.controls.all_reference > 3.0
    assert "stays with every ingredient at its reference value" in found.summary


def test_what_no_replay_brings_back_points_at_the_device(small: MakeSmall, tiny: Tiny) -> None:
    """Weights that change outside of any step, as by a bit flip: other bits from then on, and no event in a replay."""
    assert_corrupted(small, tiny, {START: -50.0})


def test_a_corruption_just_after_a_snapshot_is_told_by_an_older_one(small: MakeSmall, tiny: Tiny) -> None:
    """No step that is replayed from that snapshot has the run's bits, as if the device repeated nothing."""
    assert_corrupted(small, tiny, {START: 1.01, START + 10: -50.0})


def assert_corrupted(small: MakeSmall, tiny: Tiny, factors: dict[int, float]) -> None:
    """A run whose last weights but one are multiplied after so many steps, by the first of which it is told."""

    def change(row: dict[str, Any]) -> None:
        if row["phase"] == "training" and row["step"] in factors:
            live.trial.state.parameters[-2].data.mul_(factors[row["step"]])

    live = small(tiny(**BASE), change)
    found = live.run().diagnosis
    assert found is not None
    assert (found.cause, found.group) == ("silent_corruption", "numerics")
    assert not found.controls.exact_bits_equal
    assert found.controls.exact < 3.0
    assert "device" in found.summary
    names = [name for name, _ in live.trial.state.model.named_parameters()]
    assert (found.culprits.step, found.culprits.layer) == (min(factors), names[-2])


def test_a_run_that_differs_from_the_first_replayed_step_on_is_no_corruption(small: MakeSmall, tiny: Tiny) -> None:
    """Non-determinism is not sudden: where no replayed step has the recorded bits, nothing is named."""

    def forget(row: dict[str, Any]) -> None:
        if row["phase"] == "diagnosing" and not row["replay"]:
            for step in live.trial.losses:
                live.trial.losses[step] += 1e-9

    def flip(row: dict[str, Any]) -> None:
        forget(row)
        if row["step"] == START:
            live.trial.state.parameters[-2].data.mul_(-50.0)

    live = small(tiny(**BASE), flip)
    found = live.run().diagnosis
    assert found is not None
    assert found.cause == "unexplained"
    assert "non-determinism" in found.summary


def test_a_spent_budget_is_unexplained_with_what_was_learned(small: MakeSmall, tiny: Tiny) -> None:
    """The replays stop within the budget; the controls that were reached are in the verdict."""
    changes = {**fault("offset_labels"), "diagnosis": {"replicates": 1, "max_replayed_steps": 20}}
    found = small(tiny(**{**BASE, **changes})).run().diagnosis
    assert found is not None
    assert found.cause == "unexplained"
    assert found.replayed_steps <= 20
    assert "budget of 20 replayed steps" in found.summary
    assert found.controls.exact >= 6.0


ORDERED = """
from dataclasses import replace
import numpy as np

def only_in_order(recipe):
    def change(ingredients):
        drawn = ingredients.sample_ids
        def label(ids, epochs):
            return (recipe.true_labels(ids, epochs) + np.array_equal(ids, drawn)) % 10
        return replace(ingredients, label=label)
    return change
"""


def test_an_event_that_a_placebo_removes_is_called_chaotic(small: MakeSmall, tiny: Tiny, tmp_path: Path) -> None:
    """What vanishes with the order within the batch would vanish with any swap, so that no swap may be blamed."""
    (tmp_path / "epoch14_ordered_fault.py").write_text(ORDERED)
    faults = [{"use": "epoch14_ordered_fault:only_in_order", "start_step": START}]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        found = small(tiny(**BASE, faults=faults)).run().diagnosis
    assert found is not None
    assert found.cause == "unexplained"
    assert found.controls.exact >= 6.0
    assert max(found.controls.placebo) <= 3.0
    assert "chaotic" in found.summary
    assert found.table == []


def test_few_replays_are_not_enough_for_a_high_bar(small: MakeSmall, tiny: Tiny) -> None:
    """Where `min_confidence` asks for more than the replays can give, the suspect is named as no more than that."""
    changes = {**fault("non_finite_input"), "diagnosis": {"replicates": 1, "min_confidence": 0.999}}
    found = small(tiny(**{**BASE, **changes})).run().diagnosis
    assert found is not None
    assert (found.cause, found.remedy) == ("unexplained", None)
    assert found.confidence == pytest.approx(0.99, abs=0.005)
    assert "non_finite_input is the leading suspect, but only 4 of 4 replays agree" in found.summary
    assert [row.ingredient for row in found.table if row.is_cause] == ["pixels"]


CREEPING = """
from dataclasses import replace
import numpy as np
from trainables.rng import generator

def creeping_labels(recipe, *, start, per_step):
    def change(ingredients):
        share = (ingredients.step - start) * per_step
        def label(ids, epochs):
            draws = [generator("creeping", ingredients.step, int(i)) for i in ids]
            wrong = np.array([rng.integers(10) if rng.random() < share else -1 for rng in draws])
            return np.where(wrong < 0, recipe.true_labels(ids, epochs), wrong)
        return replace(ingredients, label=label)
    return change
"""


def test_a_slow_divergence_comes_back_in_its_replay(small: MakeSmall, tiny: Tiny, tmp_path: Path) -> None:
    """Labels that go wrong little by little make a drift: its replay must score what the detector saw, instead of
    blaming the device for an event that came back to the last bit.
    """
    (tmp_path / "epoch14_creeping_fault.py").write_text(CREEPING)
    use = "epoch14_creeping_fault:creeping_labels"
    faults = [{"use": use, "start_step": START, "params": {"start": START, "per_step": 0.006}}]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        result = small(tiny(**{**BASE, "max_steps": 240, "optim": {"lr": 0.02}, "faults": faults})).run()
    found = result.diagnosis
    assert found is not None
    assert found.symptom.kind == "divergence"
    assert found.controls.exact_bits_equal
    assert "device" not in found.summary
    assert found.controls.exact >= 6.0
    assert found.group in ("data", "unexplained")

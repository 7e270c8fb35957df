"""A cure is a config change where one exists, and is verified by a replay that stays healthy for longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trainables.baseline import Baseline
from trainables.config import TrialConfig
from trainables.detectors import Symptom, SymptomKind
from trainables.diagnosis.case import Case
from trainables.diagnosis.causes import Ingredient
from trainables.diagnosis.cures import cure_of
from trainables.diagnosis.references import (
    RateReference,
    Reference,
    clean_ingredients,
    declared_references,
    merged_batch_size,
    rate_before,
    rate_divided,
)
from trainables.diagnosis.references.usual import usual_references
from trainables.diagnosis.remedy import describe, try_remedy
from trainables.diagnosis.replay import Replayer, Severity
from trainables.diagnosis.swap_table import SwapResult, Thresholds
from trainables.diagnosis.verdict import Remedy
from trainables.ingredients import Swap
from trainables.interventions import build_swap

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall


USUAL = ("number_format", "weight_decay", "moments", "norm_settings")


@dataclass(frozen=True)
class Bench:
    """A case under way, and its references."""

    case: Case
    references: dict[Ingredient, Swap]


def case_of(small: MakeSmall, config: TrialConfig, kind: SymptomKind = "spike", onset: int = 6) -> Bench:
    """A case whose event begins at `onset`, to be replayed from step 0; nothing has been trained yet."""
    trial = small(config).trial
    pool = np.arange(len(trial.recipe.index.train))
    baseline = Baseline(level=2.4, noise=0.2, chance=2.3)
    symptom = Symptom(kind, onset + 3, onset, 9.0, "", baseline)
    clean = clean_ingredients(trial.recipe, pool, trial.ranks)
    case = Case(
        config,
        trial.recipe,
        trial.state,
        trial.stream,
        symptom,
        Replayer(trial.state, trial.stream, clean, loader_threads=0),
        Severity(symptom, config.detector, 6.0),
        Thresholds(6.0, 3.0),
        lambda label: None,
        snapshot=trial.state.snapshot(),
        stop=onset + 4,
    )
    return Bench(case, declared_references(trial.recipe))


def told_of(case: Case, ingredient: Ingredient, rate: RateReference | None) -> tuple[dict[str, Any], str]:
    """The cure's description; practice's value stands against the config's, where there is one."""
    swap = rate.swap if rate is not None else Swap("another value")
    return describe(case, Reference(ingredient, swap, "usual" if ingredient in USUAL else "declared"), rate)


def cured(bench: Bench, ingredient: Ingredient) -> Remedy:
    """The remedy of an ingredient whose screening was clear."""
    reference = Reference(ingredient, bench.references[ingredient], "declared")
    return try_remedy(bench.case, SwapResult(ingredient, "", 0.0, "yes"), reference, None)


def changed(config: TrialConfig, change: dict[str, Any]) -> TrialConfig:
    """`config` with the remedy's dotted keys."""
    values = config.model_dump(mode="json")
    for key, value in change.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        assert last in section, key
        section[last] = value
    return TrialConfig.parse(values)


def test_a_jump_of_the_schedule_is_cured_by_dropping_the_milestone(small: MakeSmall, tiny: Tiny) -> None:
    """The milestones before it stay, and the changed config has the rate that the replay held."""
    config = tiny(max_steps=40, schedule={"kind": "multi_step", "milestones": [3, 6, 20], "gamma": 10.0})
    case = case_of(small, config).case
    reference = rate_before(case.stream, 6)
    change, text = told_of(case, "learning_rate", reference)
    assert change == {"schedule.milestones": [3]}
    assert text == "hold the learning rate at 0.2 after step 6"
    cured = small(changed(config, change)).trial.stream
    assert [cured(step).learning_rate for step in (2, 5, 6, 39)] == pytest.approx([0.02, 0.2, 0.2, 0.2])


def test_a_jump_that_no_milestone_made_has_a_text_only(small: MakeSmall, tiny: Tiny) -> None:
    """What lies outside the config is not promised as a config change."""
    fault = {"use": "trainables.faults:learning_rate_factor", "start_step": 6, "params": {"factor": 50.0}}
    case = case_of(small, tiny(faults=[fault])).case
    change, text = told_of(case, "learning_rate", rate_before(case.stream, 6))
    assert change == {}
    assert text == "hold the learning rate at 0.02 after step 6"


@pytest.mark.parametrize("divisor", [4.0, 16.0])
def test_a_rate_that_is_too_high_is_divided(small: MakeSmall, tiny: Tiny, divisor: float) -> None:
    """The changed config has at every step the rate that the replay had, the scaling rule included."""
    config = tiny(optim={"lr": 3.2, "lr_batch_size": 32}, schedule={"kind": "cosine"})
    case = case_of(small, config).case
    reference = rate_divided(case.stream, divisor, 6)
    change, text = told_of(case, "learning_rate", reference)
    assert change == {"optim.lr": 3.2 / divisor}
    assert text == f"lower optim.lr from 3.2 to {3.2 / divisor:g}"
    cured = small(changed(config, change)).trial.stream
    replayed = [reference.swap(case.stream(step)).learning_rate for step in range(12)]
    assert [cured(step).learning_rate for step in range(12)] == pytest.approx(replayed)


@pytest.mark.parametrize("lr_batch_size", [None, 32])
def test_small_batch_statistics_are_cured_by_a_larger_batch(
    small: MakeSmall, tiny: Tiny, lr_batch_size: int | None
) -> None:
    """The cure's steps are those of the changed config: its samples, its epochs, its rate by the scaling rule."""
    config = tiny(global_batch_size=2, optim={"lr_batch_size": lr_batch_size})
    case = case_of(small, config, "instability", 0).case
    change, text = told_of(case, "normalization", None)
    size = merged_batch_size(2, len(case.recipe.index.train))
    assert change == {"global_batch_size": size}
    assert str(size) in text
    cure = cure_of(case, Reference("normalization", Swap("merged"), "drawn"), None)
    assert cure is not None
    tried, cured = build_swap(cure, case.recipe), small(changed(config, change)).trial.stream
    for step in (0, 7, 700):
        one, other = tried(case.stream(step)), cured(step)
        np.testing.assert_array_equal(one.sample_ids, other.sample_ids)
        np.testing.assert_array_equal(one.epochs, other.epochs)
        assert one.learning_rate == pytest.approx(other.learning_rate)


def test_a_declared_discrepancy_is_cured_by_the_config(small: MakeSmall, tiny: Tiny) -> None:
    """Where the config itself names the wrong normalisation, the change puts the right one."""
    wrong = case_of(small, tiny(data={"normalization": "one_scale"})).case
    assert told_of(wrong, "pixels", None)[0] == {"data.normalization": "per_channel"}
    fault = {"use": "trainables.faults:preprocessing", "start_step": 6, "params": {"normalization": "one_scale"}}
    right = case_of(small, tiny(faults=[fault])).case
    change, text = told_of(right, "pixels", None)
    assert change == {}
    assert "per_channel" in text


def test_data_faults_are_cured_outside_the_config(small: MakeSmall, tiny: Tiny) -> None:
    """No key puts labels or files right."""
    case = case_of(small, tiny()).case
    for ingredient in ("labels", "samples"):
        change, text = told_of(case, ingredient, None)
        assert change == {}
        assert text


def test_number_format_is_cured_by_float32(small: MakeSmall, tiny: Tiny) -> None:
    """The changed config runs in float32."""
    config = tiny(precision={"amp": "bf16"})
    change, _ = told_of(case_of(small, config).case, "number_format", None)
    assert changed(config, change).precision.amp == "fp32"


@pytest.mark.parametrize(
    ("changes", "ingredient"),
    [
        ({"optim": {"weight_decay": 3.0}}, "weight_decay"),
        ({"optim": {"kind": "adamw", "betas": (0.9, 0.1)}}, "moments"),
        ({"optim": {"momentum": 0.99}}, "moments"),
        ({"model": {"bn_eps": 2.0}}, "norm_settings"),
        ({"precision": {"amp": "fp16", "loss_scale": 9e9}}, "number_format"),
    ],
)
def test_unusual_settings_are_cured_by_practices(
    small: MakeSmall, tiny: Tiny, changes: dict[str, Any], ingredient: Ingredient
) -> None:
    """The changed config has at each step what the reference has, and is one that is accepted."""
    config = tiny(**changes)
    case = case_of(small, config).case
    change, _ = told_of(case, ingredient, None)
    assert change
    assert usual_references(changed(config, change), 0.1) == {}


def test_a_cure_that_stays_healthy_is_verified(small: MakeSmall, tiny: Tiny) -> None:
    """The replay goes on for longer than the one that convicted, and its curve is kept for the report."""
    fault = {"use": "trainables.faults:non_finite_input", "start_step": 6}
    bench = case_of(small, tiny(max_steps=40, optim={"lr": 0.005}, faults=[fault]), "non_finite")
    remedy = cured(bench, "pixels")
    assert remedy.verified
    assert remedy.severity <= 3.0
    steps = [step for step, _ in bench.case.curves["remedy"]]
    assert steps == list(range(6 + 2 * 4))


def test_a_cure_that_does_not_help_is_not_verified(small: MakeSmall, tiny: Tiny) -> None:
    """The text stands, and beside it that the replay did not stay healthy."""
    fault = {"use": "trainables.faults:non_finite_input", "start_step": 6}
    bench = case_of(small, tiny(max_steps=40, faults=[fault]), "non_finite")
    remedy = cured(bench, "labels")
    assert not remedy.verified
    assert remedy.severity == 1000.0


def test_a_cure_is_not_replayed_past_the_end_of_the_run(small: MakeSmall, tiny: Tiny) -> None:
    """There is no schedule beyond `max_steps`."""
    bench = case_of(small, tiny(max_steps=11, optim={"lr": 0.005}))
    cured(bench, "labels")
    assert [step for step, _ in bench.case.curves["remedy"]] == list(range(11))

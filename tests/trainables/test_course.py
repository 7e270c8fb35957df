"""What a run does about an event: stop, go back and on with the verified cure, or write it down and go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from trainables.checkpoint import CheckpointStore
from trainables.config import TrialConfig
from trainables.errors import ConfigError
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.trainables.conftest import Run, RunTrial, Tiny

STEPS, ONSET = 56, 35


def jump(tiny: Tiny, *, fault: bool = True, every: int | None = None, **diagnosis: Any) -> TrialConfig:
    """A run whose learning rate jumps to 60 times its value at ONSET, for good."""
    use = {"use": "trainables.faults:learning_rate_factor", "start_step": ONSET, "params": {"factor": 60.0}}
    return tiny(
        max_steps=STEPS,
        global_batch_size=16,
        detector={"history": 16, "min_history": 12},
        diagnosis={"replicates": 1, "horizon": 8, **diagnosis},
        checkpoint={"every": every} if every else {},
        faults=[use] if fault else [],
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint."""
    with CheckpointStore(str(folder), keep=2) as store:
        found = store.latest()
    assert found is not None
    assert found.step == STEPS
    return found.tensors


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def healed(
    tiny: Tiny, digits_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, list[dict[str, Any]], Path]:
    """A run with a jump that goes back, with its checkpoints: result, rows, folder."""
    folder = tmp_path_factory.mktemp("healed")
    rows: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        config = jump(tiny, every=STEPS - 1, on_event="rollback")
        result = run_trial(config, rows.append, checkpoints=str(folder))
    return result, rows, folder


def test_a_rollback_ends_as_the_run_without_the_fault(
    healed: tuple[Any, list[dict[str, Any]], Path],
    tiny: Tiny,
    tmp_path: Path,
    digits_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cure caps the rate at what it was before the jump: from the snapshot on, every bit is the healthy run's."""
    result, _, folder = healed
    assert (result.phase, result.steps, result.symptom) == ("finished", STEPS, None)
    (event,) = result.events
    assert (event.action, event.cause) == ("rollback", "lr_jump")
    assert event.intervention.kind == "cap_rate"
    assert event.back_to <= ONSET <= event.onset
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    healthy = run_trial(jump(tiny, fault=False, every=STEPS - 1), lambda row: None, checkpoints=str(tmp_path))
    assert equal(weights(folder), weights(tmp_path))
    assert healthy.best_val_top1 == result.best_val_top1


def test_a_rewound_step_is_told_once(healed: tuple[Any, list[dict[str, Any]], Path]) -> None:
    """Each step once and in order; rows never fall; one row holds the event, and all after it the intervention."""
    result, rows, _ = healed
    assert [step["step"] for row in rows for step in row["history"]] == list(range(STEPS))
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    told = [row["event"] for row in rows if row["event"]]
    assert [event["diagnosis"]["cause"] for event in told] == ["lr_jump"]
    assert told[0]["text"] == result.events[0].intervention.describe()
    assert rows[-1]["interventions"] == [told[0]["text"]]
    assert rows[-1]["symptom"] == ""


def test_a_resume_after_a_rollback_ends_with_the_same_bits(
    healed: tuple[Any, list[dict[str, Any]], Path],
    tiny: Tiny,
    tmp_path: Path,
    digits_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted amid the steps that are run again: the interventions are in the checkpoint."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    result, _, folder = healed
    config = jump(tiny, every=STEPS - 1, on_event="rollback")
    rows: list[dict[str, Any]] = []
    asked = iter(range(STEPS))

    def notice() -> bool:
        return any(row["event"] for row in rows) and next(asked) > 2

    first = run_trial(config, rows.append, checkpoints=str(tmp_path), notice=notice)
    assert first.phase == "interrupted"
    assert result.events[0].back_to < first.steps < result.events[0].reached
    again = run_trial(config, rows.append, checkpoints=str(tmp_path))
    assert (again.phase, len(again.events)) == ("finished", 1)
    assert equal(weights(tmp_path), weights(folder))
    assert [step["step"] for row in rows for step in row["history"]] == list(range(STEPS))


def test_a_run_that_may_go_back_no_more_stops(run: RunTrial, tiny: Tiny) -> None:
    """At a second event, past what the cure was tried over: its diagnosis is the last row's."""
    config = jump(tiny, on_event="rollback", max_rollbacks=1)
    nan = {"use": "trainables.faults:non_finite_input", "start_step": 54}
    ill = run(TrialConfig.parse({**config.model_dump(), "faults": [*config.model_dump()["faults"], nan]}))
    assert (ill.result.phase, len(ill.result.events)) == ("stopped", 1)
    assert ill.rows[-1]["symptom"] == "non_finite"
    assert ill.rows[-1]["diagnosis"]["cause"] == "non_finite_input"


@pytest.fixture(scope="module")
def recorded(run: RunTrial, tiny: Tiny) -> Run:
    """A batch of NaN over three steps, and a jump of the rate, both only recorded and not diagnosed."""
    config = jump(tiny, on_event="record", enabled=False)
    nan = {"use": "trainables.faults:non_finite_input", "start_step": 16, "stop_step": 19}
    return run(TrialConfig.parse({**config.model_dump(), "faults": [nan, *config.model_dump()["faults"]]}))


def test_recorded_events_change_no_step(recorded: Run, run: RunTrial) -> None:
    """The run goes to its end with the losses that it has without a detector; each event is written down once."""
    assert recorded.result.phase == "finished"
    kinds = [event.kind for event in recorded.result.events]
    assert kinds[0] == "non_finite"
    assert len(kinds) >= 2
    assert recorded.result.events[0].onset == 16
    values = recorded.config.model_dump()
    unwatched = run(TrialConfig.parse({**values, "detector": {**values["detector"], "enabled": False}}))
    assert repr(unwatched.losses) == repr(recorded.losses)


def test_no_more_events_are_recorded_than_may_be(recorded: Run, run: RunTrial) -> None:
    """After the last one the run goes on unwatched."""
    values = recorded.config.model_dump()
    few = run(TrialConfig.parse({**values, "diagnosis": {**values["diagnosis"], "max_events": 1}}))
    assert (few.result.phase, [event.kind for event in few.result.events]) == ("finished", ["non_finite"])


def test_a_rollback_wants_a_diagnosis(tiny: Tiny) -> None:
    """There is no verified remedy without one."""
    with pytest.raises(ConfigError, match=r"diagnosis\.on_event: 'rollback' is not allowed"):
        tiny(diagnosis={"enabled": False, "on_event": "rollback"})

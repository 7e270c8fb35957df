"""LossSpikeStopper: foreign trials end on a symptom, trials that diagnose are left alone until the time-out."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from infra.stopper import DiagnosisWatch, LossSpikeStopper
from trainables.errors import ConfigError
from trainables.rng import generator


def healthy(step: int) -> float:
    """A falling loss with a little noise."""
    return 1.0 + math.exp(-step / 30) + 0.02 * float(generator("stopper", step).standard_normal())


def first_stop(stopper: LossSpikeStopper, losses: list[float], trial_id: str = "a") -> int | None:
    """The row at which the stopper ends a foreign trial that reports `losses`."""
    for step, loss in enumerate(losses, start=1):
        if stopper(trial_id, {"training_iteration": step, "loss": loss}):
            return step
    return None


def test_spike_ends_a_foreign_trial() -> None:
    """A loss that jumps and stays out ends the trial within a few rows; a healthy one runs on."""
    calm = [healthy(step) for step in range(120)]
    assert first_stop(LossSpikeStopper(), calm) is None
    stop = first_stop(LossSpikeStopper(), calm[:80] + [loss + 3.0 for loss in calm[80:]])
    assert stop is not None
    assert 80 < stop <= 90


def test_one_bad_row_ends_nothing() -> None:
    """A single outlier that heals at the next row is no symptom."""
    losses = [healthy(step) for step in range(120)]
    losses[80] += 5.0
    assert first_stop(LossSpikeStopper(), losses) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_loss_ends_a_trial_at_once(value: float) -> None:
    """NaN and infinities end the trial at their row, even at the first, and poison nothing."""
    assert first_stop(LossSpikeStopper(), [value]) == 1
    assert first_stop(LossSpikeStopper(), [healthy(step) for step in range(40)] + [value]) == 41


def test_collapse_needs_the_number_of_classes() -> None:
    """A settled loss at ln(classes), after better times, ends the trial; a late collapse is no jump out of noise."""
    calm = [0.6 + 0.02 * float(generator("collapse", step).standard_normal()) for step in range(100)]
    chance = [math.log(10)] * 60
    assert first_stop(LossSpikeStopper(num_classes=10), calm + chance) is not None


def test_trials_are_kept_apart() -> None:
    """What one trial reports changes nothing for another."""
    stopper = LossSpikeStopper()
    calm = [healthy(step) for step in range(80)]
    assert first_stop(stopper, calm, "a") is None
    assert first_stop(stopper, [loss + 3.0 for loss in calm], "b") is None
    assert not stopper.stop_all()


def test_other_metric_and_clock() -> None:
    """The names of the loss and of the row's number are the trainable's own; rows without the loss are passed over."""
    stopper = LossSpikeStopper(metric="train/loss", time_attr="epoch")
    assert not stopper("a", {"epoch": 1, "accuracy": 0.5})
    assert stopper("a", {"epoch": 2, "train/loss": math.nan})


def test_state_survives_pickling() -> None:
    """Half of a run, a pickle, and the other half end where the whole run ends: Tune pickles its stoppers."""
    losses = [healthy(step) for step in range(80)] + [healthy(step) + 3.0 for step in range(80, 120)]
    whole = first_stop(LossSpikeStopper(), losses)
    stopper = LossSpikeStopper()
    for step, loss in enumerate(losses[:70], start=1):
        assert not stopper("a", {"training_iteration": step, "loss": loss})
    restored = pickle.loads(pickle.dumps(stopper))  # noqa: S301 - our own
    rest = enumerate(losses[70:], start=71)
    assert next(step for step, loss in rest if restored("a", {"training_iteration": step, "loss": loss})) == whole


def test_options_are_checked() -> None:
    """Options are the detector's, and a wrong one is one line; a time-out is above zero."""
    with pytest.raises(ConfigError, match="spike_score: -1"):
        LossSpikeStopper(spike_score=-1)
    with pytest.raises(ConfigError, match=r"spike_scor.*write 'spike_score'"):
        LossSpikeStopper(spike_scor=3)
    with pytest.raises(ConfigError, match="diagnosis_timeout_s: 0"):
        LossSpikeStopper(diagnosis_timeout_s=0)


def test_disabled_detector_stops_nothing() -> None:
    """`enabled=False` lets even NaN pass."""
    assert first_stop(LossSpikeStopper(enabled=False), [math.nan] * 5) is None


def row(phase: str, seconds: float, loss: float = math.nan) -> dict[str, Any]:
    """A row of a trial that detects for itself."""
    return {"phase": phase, "loss": loss, "step": 9, "training_iteration": 9, "time_total_s": seconds}


def test_own_trial_is_left_alone_while_it_diagnoses() -> None:
    """Our own trial may report NaN and take its time over a diagnosis, up to the time-out since its first such row."""
    stopper = LossSpikeStopper(diagnosis_timeout_s=60)
    assert not stopper("a", row("training", 1))
    assert not stopper("a", row("diagnosing", 100))
    assert not stopper("a", row("diagnosing", 160))
    assert stopper("a", row("diagnosing", 161))


def test_finished_diagnosis_stops_the_clock() -> None:
    """A diagnosis that came, or a trial that went on, is never late; the next one has its own clock."""
    stopper = LossSpikeStopper(diagnosis_timeout_s=60)
    assert not stopper("a", row("diagnosing", 100))
    assert not stopper("a", row("stopped", 500))
    assert not stopper("a", row("diagnosing", 600))
    assert not stopper("a", row("diagnosing", 650))


def test_watch_without_a_clock_in_the_row() -> None:
    """A row without time_total_s is timed by this process: just begun, it is not late."""
    watch = DiagnosisWatch(60)
    assert watch.is_diagnosing("a", {"phase": "diagnosing"})
    assert not watch.is_late("a", {"phase": "diagnosing"})

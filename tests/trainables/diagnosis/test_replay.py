"""A replay gives the run's own bits, changes nothing for good, and its severity is in the detector's units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from trainables.baseline import NON_FINITE_SCORE, Baseline
from trainables.config import DetectorConfig
from trainables.detectors import Symptom, SymptomKind
from trainables.diagnosis.references import clean_ingredients
from trainables.diagnosis.replay import Replay, Replayer, Severity, equal_bits, shuffled_within_batch
from trainables.ingredients import Swap
from trainables.recipe import Recipe
from trainables.state import Snapshot
from trainables.step_signals import StepSignals
from trainables.trial import Trial

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall

CHANCE = math.log(10)
BASELINE = Baseline(level=0.5, noise=0.1, chance=CHANCE, input_mean=(0.0,), input_std=(1.0,), input_noise=0.1)


@dataclass(frozen=True)
class Past:
    """A finished run, and what it takes to replay it."""

    trial: Trial
    replayer: Replayer
    snapshot: Snapshot


@pytest.fixture(scope="module")
def past(small: MakeSmall, tiny: Tiny) -> Past:
    """Twenty-four steps with augmentation, over the border of no epoch."""
    run = small(
        tiny(max_steps=24, eval_every=7, data={"augment": "crop_flip"}, diagnosis={"snapshot_every": 4, "snapshots": 6})
    )
    assert run.run().phase == "finished"
    trial = run.trial
    clean = clean_ingredients(trial.recipe, np.arange(200), trial.ranks)
    snapshot = trial.snapshots.before(14, margin=3)[0]
    assert snapshot.step == 8
    return Past(trial, Replayer(trial.state, trial.stream, clean, loader_threads=1), snapshot)


def test_an_exact_replay_has_the_trials_own_bits(past: Past) -> None:
    """Losses from the middle of a run, evaluations in between notwithstanding, come back to the last bit."""
    replay = past.replayer.run(past.snapshot, 24)
    assert [s.step for s in replay.signals] == list(range(8, 24))
    assert [s.loss for s in replay.signals] == [past.trial.losses[step] for step in range(8, 24)]
    assert equal_bits(replay, past.trial.losses)


def test_replays_do_not_see_each_other(past: Past) -> None:
    """Two replays of one snapshot are equal to the last bit, whatever ran in between."""
    first = past.replayer.run(past.snapshot, 14)
    hot = Swap("hot", lambda i: i.at_rate(10.0))
    assert past.replayer.run(past.snapshot, 14, [hot]) != first
    past.replayer.run(past.snapshot, 12, placebo=3)
    assert past.replayer.run(past.snapshot, 14) == first


def test_swaps_act_in_a_replay(past: Past) -> None:
    """The same bits up to the swap's first step, others after it; the recorded stream is untouched."""
    plain = past.replayer.run(past.snapshot, 16)
    frozen = past.replayer.run(past.snapshot, 16, [Swap("x4", lambda i: i.at_rate(0.08), start=11)])
    assert [s.loss for s in frozen.signals][:4] == [s.loss for s in plain.signals][:4]
    assert all(a.loss != b.loss for a, b in zip(frozen.signals[4:], plain.signals[4:], strict=True))
    assert past.trial.stream(12).learning_rate == 0.02
    assert not equal_bits(frozen, past.trial.losses)


def test_a_placebo_changes_rounding_and_little_else(past: Past) -> None:
    """Another order within the batch and 1e-6 of the weights: near the plain losses, and not equal to them."""
    plain = past.replayer.run(past.snapshot, 12)
    placebos = [past.replayer.run(past.snapshot, 12, placebo=key) for key in (0, 0, 1)]
    assert placebos[0] == placebos[1] != placebos[2]
    for placebo in (placebos[0], placebos[2]):
        losses = [s.loss for s in placebo.signals]
        assert losses != [s.loss for s in plain.signals]
        assert losses == pytest.approx([s.loss for s in plain.signals], rel=0.01)


def test_order_within_the_batch_keeps_samples_and_epochs_together(recipe: Recipe) -> None:
    """The same pairs of sample and epoch in another order, at a batch that runs across an epoch's border."""
    plain = recipe.ingredients(187)
    assert len(set(plain.epochs)) == 2
    shuffled = shuffled_within_batch(1)(plain)
    pairs = [sorted(zip(i.sample_ids, i.epochs, strict=True)) for i in (plain, shuffled)]
    assert pairs[0] == pairs[1]
    assert not np.array_equal(plain.sample_ids, shuffled.sample_ids)


def test_a_settled_replay_ends_early(past: Past) -> None:
    """No step more than it takes to know."""
    before = past.replayer.steps
    replay = past.replayer.run(past.snapshot, 24, settled=lambda signals: len(signals) == 3)
    assert len(replay.signals) == past.replayer.steps - before == 3


def test_the_clean_batch_is_scored_before_and_after(past: Past) -> None:
    """From the same snapshot it starts alike; no training leaves it where it was, a hot rate damages it."""
    still = past.replayer.run(past.snapshot, 12, [Swap("still", lambda i: i.at_rate(0.0))])
    hot = past.replayer.run(past.snapshot, 12, [Swap("hot", lambda i: i.at_rate(20.0))])
    assert still.clean_before == hot.clean_before
    assert still.clean_after == pytest.approx(still.clean_before, rel=1e-6)
    assert hot.clean_after > 2 * hot.clean_before


def test_a_replay_trains_on_no_clean_batch(past: Past) -> None:
    """Scoring leaves no trace: the state after a replay is that of the bare steps."""
    past.replayer.run(past.snapshot, 10)
    after = {name: tensor.clone() for name, tensor in past.trial.state.tensors().items()}
    past.trial.state.restore(past.snapshot)
    from trainables.loop import run_steps

    list(run_steps(past.trial.state, past.trial.stream, 8, 10, loader_threads=0))
    assert all(torch.equal(tensor, after[name]) for name, tensor in past.trial.state.tensors().items())


def test_an_observation_has_the_inputs_of_the_run_and_trains_nothing(past: Past) -> None:
    """For symptoms of the input alone: the same moments with the weights of any step, and the state stays."""
    replay = past.replayer.run(past.snapshot, 12)
    before = {name: tensor.clone() for name, tensor in past.trial.state.tensors().items()}
    seen = past.replayer.observe(past.snapshot, 12)
    assert [(s.step, s.input_mean, s.input_std) for s in seen.signals] == [
        (s.step, s.input_mean, s.input_std) for s in replay.signals
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in past.trial.state.tensors().items())
    assert seen.curve() == []


def replay_of(*losses: float, start: int = 8, before: float = 0.5, after: float = 0.5, mean: float = 0.0) -> Replay:
    """A replay with these losses."""
    steps = [StepSignals(k, loss, input_mean=(mean,), input_std=(1.0,)) for k, loss in enumerate(losses, start)]
    return Replay(tuple(steps), before, after)


def severity(kind: SymptomKind, **changes: float) -> Severity:
    """Of a symptom whose onset is step 10."""
    config = DetectorConfig.parse({"confirm": 2, "min_history": 4, "erratic_window": 8} | changes)
    return Severity(Symptom(kind, 13, 10, 9.0, "", BASELINE), config, present=6.0)


def test_severity_is_the_worst_stretch_of_confirm_steps() -> None:
    """The median over as many steps as the detector's rule asks for: one bad batch is not an event."""
    assert severity("spike")(replay_of(0.5, 0.5, 0.5, 2.5, 2.5, 0.5)) == pytest.approx(20.0)
    assert severity("spike", confirm=3)(replay_of(0.5, 0.5, 0.5, 9.5, 0.5, 0.5)) == pytest.approx(0.0)


def test_steps_before_the_onset_do_not_count() -> None:
    """What lies before the event is not scored."""
    assert severity("spike")(replay_of(99.0, 99.0, 0.5, 0.5, 0.5)) == pytest.approx(0.0)


def test_damage_to_the_weights_counts_too() -> None:
    """Fine batches and a clean batch that got worse: the excess in noise units."""
    assert severity("spike")(replay_of(0.5, 0.5, 0.5, 0.5, before=0.4, after=1.4)) == pytest.approx(10.0)
    assert severity("spike")(replay_of(0.5, 0.5, 2.5, 2.5, before=0.4, after=0.4)) == pytest.approx(20.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_the_worst(bad: float) -> None:
    """One step after the onset, or the clean batch at the end."""
    assert severity("spike")(replay_of(0.5, 0.5, 0.5, bad, 0.5)) == NON_FINITE_SCORE
    assert severity("non_finite")(replay_of(0.5, 0.5, bad)) == NON_FINITE_SCORE
    assert severity("instability")(replay_of(0.5, 0.5, bad)) == NON_FINITE_SCORE
    assert severity("spike")(replay_of(0.5, 0.5, 0.5, 0.5, after=bad)) == NON_FINITE_SCORE
    assert severity("spike")(replay_of(bad, 0.5, 0.5, 0.5)) < 1


def test_severity_of_a_divergence_looks_at_min_history_steps() -> None:
    """A drift is a long stretch: two bad steps are none."""
    drift = severity("divergence", min_history=5)
    assert drift(replay_of(0.5, 0.5, 0.5, 2.5, 2.5, 0.5, 0.5, 0.5)) == pytest.approx(0.0)
    assert drift(replay_of(0.5, 0.5, 2.5, 2.5, 2.5, 2.5, 2.5)) == pytest.approx(20.0)


def test_severity_of_an_input_shift_is_of_the_moments() -> None:
    """Whatever the losses do: batch norm hides the shift from them."""
    assert severity("input_shift")(replay_of(0.5, 0.5, 99.0, 99.0)) == pytest.approx(0.0)
    assert severity("input_shift")(replay_of(0.5, 0.5, 0.5, 0.5, mean=0.9)) == pytest.approx(9.0)


def test_severity_of_an_instability_is_of_the_last_window() -> None:
    """Worse than guessing and noisy at the end of the stretch."""
    noisy = [CHANCE * 1.25 + (-1) ** k for k in range(16)]
    assert severity("instability")(replay_of(*noisy)) == pytest.approx(16.0)
    assert severity("instability")(replay_of(*noisy, *[0.5] * 8)) == 0.0


def test_short_replays_are_scored_over_what_there_is() -> None:
    """A replay that was cut off has a severity."""
    assert severity("divergence")(replay_of(2.5, start=10)) == pytest.approx(20.0)


def test_settled_means_that_the_event_is_present() -> None:
    """A full window of bad steps after the onset, or one that is not finite, ends a replay; a shift never does."""
    bad = replay_of(0.5, 0.5, 2.5, 2.5).signals
    assert severity("spike").settled(bad)
    assert not severity("spike").settled(bad[:3])
    assert not severity("divergence").settled(bad)
    assert severity("spike").settled(replay_of(0.5, 0.5, math.nan).signals)
    assert not severity("spike").settled(replay_of(math.nan, math.nan).signals)
    assert not severity("input_shift").settled(replay_of(*[2.5] * 9, mean=0.9).signals)
    assert not severity("instability").settled(replay_of(*[2.5, 9.0] * 9).signals)


def test_what_is_settled_scores_as_present() -> None:
    """Ending early never turns a verdict round."""
    signals = replay_of(0.5, 0.5, 0.5, 1.2, 1.2, 0.4, 0.4).signals
    rule = severity("spike")
    ends = [n for n in range(1, len(signals) + 1) if rule.settled(signals[:n])]
    assert all(rule(Replay(signals[:n], 0.5, 0.5)) >= rule.present for n in ends)
    assert ends


def test_equal_bits_compares_bits() -> None:
    """Nan equals itself here, minus zero is not zero, and nothing in common is not equality."""
    replay = replay_of(0.5, math.nan, 0.25)
    assert equal_bits(replay, {8: 0.5, 9: math.nan, 10: 0.25, 11: 9.0})
    assert not equal_bits(replay, {8: 0.5, 9: math.nan, 10: math.nextafter(0.25, 1)})
    assert not equal_bits(replay_of(0.0), {8: -0.0})
    assert not equal_bits(replay, {})


def test_curves_are_finite() -> None:
    """A plot and strict JSON can't take nan: such steps are left out."""
    assert replay_of(0.5, math.nan, math.inf, 0.1234567).curve() == [[8, 0.5], [11, 0.123457]]

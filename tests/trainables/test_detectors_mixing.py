"""Mixup and CutMix: the loss follows the share that was drawn, and only what it doesn't explain is a symptom."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from trainables.config import DetectorConfig
from trainables.data.mixing import draw_mix
from trainables.detectors import Detector, Symptom
from trainables.detectors.mixing import Mixing
from trainables.diagnosis.replay import Replay, Severity
from trainables.rng import generator
from trainables.step_signals import StepSignals

CHANCE = math.log(10)
COUNT = 400
K = np.arange(COUNT)
Floats = NDArray[np.float64]
KINDS = {"mixup 0.2": (0.2, 0.0), "mixup 0.8": (0.8, 0.0), "CutMix": (0.0, 1.0), "both": (0.2, 1.0)}
COST = 2.1
"""Nats a nat of entropy that small ResNets on the digits pay, whatever the normalisation (1.7 to 2.5)."""


def shares_of(kind: str, key: int) -> Floats:
    """What a run mixes into each step's images."""
    mixes = (draw_mix(key, int(k), *KINDS[kind], 16) for k in K)
    return np.array([mix.share for mix in mixes if mix is not None])


def entropy_of(share: float) -> float:
    """Of the targets, in nats."""
    return StepSignals(0, 0.0, mixed_share=share).target_entropy


def losses_of(shares: Floats, key: int, cost: float = COST, level: float = 0.15) -> Floats:
    """A run that learns; what mixing costs scatters with what it costs."""
    learning = level + (CHANCE - level) * np.exp(-K / 30)
    entropy = np.array([entropy_of(share) for share in shares])
    learned = 1.0 - np.exp(-K / 30)
    rng = generator("mixing", key)
    return np.asarray(learning + cost * entropy * learned * rng.normal(1, 0.2, COUNT) + rng.normal(0, 0.08, COUNT))


def steps(losses: Floats, shares: Floats) -> list[StepSignals]:
    """One step a loss."""
    return [StepSignals(int(k), float(losses[k]), loss_noise=0.08, mixed_share=float(shares[k])) for k in K]


def first(rows: Iterable[StepSignals]) -> Symptom | None:
    """What the detector sees first."""
    detector = Detector(DetectorConfig(stall_steps=200), 10)
    return next((symptom for row in rows if (symptom := detector.update(row))), None)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_that_vary_are_no_symptom(kind: str) -> None:
    """On ten seeds each."""
    for key in range(10):
        shares = shares_of(kind, key)
        assert first(steps(losses_of(shares, key), shares)) is None


def test_without_the_shares_the_same_losses_are_spikes() -> None:
    """What the shares are recorded for."""
    seeds = range(10)
    blind = [first(steps(losses_of(shares_of("mixup 0.2", key), key), np.zeros(COUNT))) for key in seeds]
    assert any(symptom is not None and symptom.kind == "spike" for symptom in blind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rise_that_shares_do_not_explain_is_seen(kind: str) -> None:
    """1.5 nats from step 300 on, within 16 steps and dated to 4, with either kind of mixing."""
    for key in range(5):
        shares = shares_of(kind, key)
        symptom = first(steps(losses_of(shares, key) + np.where(K >= 300, 1.5, 0.0), shares))
        assert symptom is not None
        assert 300 <= symptom.onset <= 304
        assert symptom.step <= 316


def test_mixing_that_begins_in_a_run_is_no_symptom() -> None:
    """From step 200 on, while what it costs is not known yet."""
    for key in range(10):
        shares = np.where(K < 200, 0.0, shares_of("mixup 0.2", key))
        assert first(steps(losses_of(shares, key), shares)) is None


def test_guessing_is_a_stall_whatever_is_mixed() -> None:
    """A model that guesses pays nothing for mixing; one that learns slowly under CutMix pays, and is no stall."""
    shares = shares_of("CutMix", 0)
    guessing = steps(CHANCE + generator("stall", 0).normal(0, 0.08, COUNT), shares)
    symptom = first(guessing)
    assert symptom is not None
    assert symptom.kind == "stall"
    assert first(steps(losses_of(shares, 0, level=0.7), shares)) is None


def test_the_cost_is_that_of_the_run() -> None:
    """By the steps since mixing began, a trend and one wild batch notwithstanding; none is judged until it is known."""
    shares = np.where(K < 100, 0.0, shares_of("mixup 0.8", 3))
    losses = losses_of(shares, 3)
    losses[390] += 50.0
    mixing, plain = Mixing(), []
    for row in steps(losses, shares):
        assert (mixing.cost > 0) <= (row.step > 100)
        plain.append(mixing.take(row, patience=16))
    assert [step for step in K if plain[step] is None] == list(range(100, 116))
    assert mixing.cost == pytest.approx(COST, rel=0.15)
    ends = [row.loss for row in plain[300:390] if row is not None]
    assert np.std(ends) < 0.6 * np.std(losses[300:390])


def test_a_replay_is_scored_without_what_mixing_costs() -> None:
    """By the run's own cost, which the symptom's baseline holds."""
    shares = shares_of("mixup 0.8", 0)
    symptom = first(steps(losses_of(shares, 0) + np.where(K >= 300, 1.5, 0.0), shares))
    assert symptom is not None
    assert symptom.baseline.mixing_cost == pytest.approx(COST, rel=0.15)
    severity = Severity(symptom, DetectorConfig(), 6.0)
    sound, ill = (losses_of(shares, 1) + np.where(K >= 300, rise, 0.0) for rise in (0.0, 1.5))
    scores = [severity(Replay(tuple(steps(losses, shares)[290:316]), 0.0, 0.0)) for losses in (sound, ill)]
    assert scores[0] < 3.0
    assert scores[1] > 6.0


@pytest.mark.parametrize(("share", "entropy"), [(0.0, 0.0), (0.5, math.log(2)), (0.1, 0.325083)])
def test_the_entropy_of_two_labels(share: float, entropy: float) -> None:
    """Of the shares `share` and 1 - `share`, in nats."""
    assert entropy_of(share) == pytest.approx(entropy, abs=1e-6)


def test_a_checkpoint_of_before_mixing_was_followed_goes_on() -> None:
    """Its steps have a flag for the share, and it has no cost yet."""
    shares = shares_of("mixup 0.2", 0)
    rows = steps(losses_of(shares, 0), shares)
    before, after = Detector(DetectorConfig(), 10), Detector(DetectorConfig(), 10)
    for row in rows[:100]:
        before.update(row)
    old = before.state_dict()
    del old["mixing"], old["whole"]
    for kept in (*old["accepted"], *old["recent"]):
        kept["mixed"] = kept.pop("mixed_share") > 0
    after.load_state_dict(json.loads(json.dumps(old)))
    assert [after.update(row) for row in rows[100:200]] == [None] * 100
    assert after.memory.mixing.cost == pytest.approx(COST, rel=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_falls_to_guessing_has_collapsed(kind: str) -> None:
    """Whatever is mixed, the loss is chance; the replay of the same is present, that of a sound run absent."""
    for key in range(5):
        shares = shares_of(kind, key)
        sound = losses_of(shares, key)
        fallen = np.where(K >= 300, CHANCE + generator("fall", key).normal(0, 0.01, COUNT), sound)
        symptom = first(steps(fallen, shares))
        assert symptom is not None
        assert symptom.kind == "collapse"
        assert 300 <= symptom.onset <= 304
        severity = Severity(symptom, DetectorConfig(), 6.0)
        scores = [severity(Replay(tuple(steps(losses, shares)[290:330]), 0.0, 0.0)) for losses in (sound, fallen)]
        assert scores[0] < 3.0
        assert scores[1] >= 6.0

"""Each rule that makes a log speak for a cause, with a log that looks alike and must not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from trainables.diagnosis.causes import GROUP_OF
from trainables.runlog.candidates import CAP, REPLAYS, Candidate, best_first, verdict_of
from trainables.runlog.finding import Finding

Log = dict[str, np.ndarray]
Make = Callable[..., Log]
Find = Callable[..., Finding]
CHANCE = math.log(100)


def confidences(finding: Finding) -> dict[str, float]:
    """Cause -> confidence."""
    return {candidate.cause: candidate.confidence for candidate in finding.causes}


def evidence(finding: Finding, cause: str) -> str:
    """What is said for a cause."""
    (found,) = (candidate.evidence for candidate in finding.causes if candidate.cause == cause)
    return found


def test_a_healthy_log_speaks_for_nothing(healthy: Make, find: Find) -> None:
    """Ten seeds of a healthy run: no symptom, no cause, no verdict."""
    for seed in range(10):
        finding = find(healthy(seed=seed))
        assert (finding.symptoms, finding.causes, finding.verdict) == ((), (), "unexplained")


def test_a_rate_that_jumps_at_the_spike_is_the_verdict(healthy: Make, spiked: Make, find: Find) -> None:
    """Rate and loss go up at the same step: lr_jump, with both rates and steps as evidence."""
    log = spiked(healthy(), 200)
    log["lr"] = np.where(np.arange(400) < 200, 0.1, 1.0)
    finding = find(log)
    assert finding.verdict == "lr_jump"
    assert evidence(finding, "lr_jump") == (
        "the rate rises 10-fold, from 0.1 to 1, at step 200; the spike begins at step 200"
    )


@pytest.mark.parametrize(("at", "to"), [(200, 0.01), (100, 1.0), (260, 1.0)])
def test_a_drop_or_a_jump_elsewhere_is_not(healthy: Make, spiked: Make, find: Find, at: int, to: float) -> None:
    """A rate that falls at the spike, or that jumps long before or after it, explains nothing."""
    log = spiked(healthy(), 200)
    log["lr"] = np.where(np.arange(400) < at, 0.1, to)
    finding = find(log)
    assert "lr_jump" not in confidences(finding)
    assert finding.verdict == "unexplained"


def test_a_cosine_that_climbs_again_is_seen(healthy: Make, spiked: Make, find: Find) -> None:
    """A rate beyond its period rises smoothly to a spike: lr_jump; a spike while it still falls is none."""
    log = healthy()
    log["lr"] = 0.05 * (1 + np.cos(np.arange(400) * math.pi / 200))
    finding = find(spiked(log, 330))
    assert finding.verdict == "lr_jump"
    assert "the rate fell from 0.1 to 0 at step 200, and is 0.07" in evidence(finding, "lr_jump")
    assert "lr_jump" not in confidences(find(spiked(log, 150)))


def test_an_early_spike_parts_no_warm_up_from_a_hot_rate(healthy: Make, spiked: Make, find: Find) -> None:
    """At full rate from step 0: both are candidates and neither is the verdict; in a warm-up none is missing."""
    log = spiked(healthy(), 40, 300)
    finding = find(log)
    assert {"warmup_missing", "lr_too_high"} <= confidences(finding).keys()
    assert finding.verdict == "unexplained"
    log["lr"] = np.minimum(np.arange(1, 401) / 100, 1.0)
    log["update_ratio"] = np.minimum(np.arange(1, 401) / 1000, 0.1)
    finding = find(log)
    assert "warmup_missing" not in confidences(finding)
    assert finding.verdict == "lr_too_high"
    assert "the rate had risen from 0.01 to 0.41 at step 40" in evidence(finding, "lr_too_high")


def test_a_late_spike_without_a_change_stays_unexplained(healthy: Make, spiked: Make, find: Find) -> None:
    """Nothing moved before it: rate, edge of stability and samples are named, and no verdict is given."""
    finding = find(spiked(healthy(4000), 3000))
    assert confidences(finding).keys() == {"lr_too_high", "edge_of_stability", "poisoned_batch"}
    assert finding.verdict == "unexplained"


def test_spikes_that_come_each_epoch_speak_for_the_data(healthy: Make, spiked: Make, find: Find) -> None:
    """Spikes 500 steps apart: poisoned_batch leads; at odd distances it does not."""
    regular, odd = healthy(4000), healthy(4000)
    for place in (1500, 2000, 2500, 3000, 3500):
        regular = spiked(regular, place)
    for place in (1500, 1700, 2600, 2800, 3700):
        odd = spiked(odd, place)
    assert find(regular).causes[0].cause == "poisoned_batch"
    assert find(odd).causes[0].cause == "lr_too_high"


def test_a_restart_at_the_same_rate_loses_the_optimizers_state(healthy: Make, spiked: Make, find: Find) -> None:
    """The step goes back and a spike follows: optimizer_state_lost; with another rate it is lr_jump instead."""
    log = spiked(healthy(), 300)
    log["step"] = np.concatenate([np.arange(300), np.arange(250, 350)])
    finding = find(log)
    assert finding.verdict == "optimizer_state_lost"
    assert "goes back from step 299 to 250" in evidence(finding, "optimizer_state_lost")
    log["lr"] = np.where(np.arange(400) < 300, 0.1, 0.8)
    finding = find(log)
    assert finding.verdict == "lr_jump"
    assert "optimizer_state_lost" not in confidences(finding)


def test_a_healthy_restart_is_quiet(healthy: Make, find: Find) -> None:
    """A restart that goes on well is no symptom."""
    log = healthy()
    log["step"] = np.concatenate([np.arange(300), np.arange(250, 350)])
    assert find(log).symptoms == ()


def test_halvings_of_the_loss_scale_are_fp16(healthy: Make, find: Find) -> None:
    """Six halvings, then nan: fp16_overflow. One halving, which is routine, is not enough."""
    log = healthy()
    log["loss"][300:] = math.nan
    log["loss_scale"] = np.full(400, 65536.0)
    log["loss_scale"][290:] = 32768.0
    assert "fp16_overflow" not in {c.cause for c in find(log).causes if c.confidence >= 0.5}
    for place in range(294, 299):
        log["loss_scale"][place:] /= 2
    finding = find(log)
    assert finding.verdict == "fp16_overflow"
    assert "falls from 65536 to 1024 between steps 289 and 298" in evidence(finding, "fp16_overflow")


def test_a_sudden_nan_stays_unexplained(healthy: Make, find: Find) -> None:
    """Without a sign before it a nan is the input's, the format's or the loss's: named, unexplained."""
    log = healthy()
    log["loss"][300:] = math.nan
    finding = find(log)
    assert {"non_finite_input", "fp16_overflow", "loss_numerics"} <= confidences(finding).keys()
    assert finding.verdict == "unexplained"
    log["grad_norm"][280:300] *= np.geomspace(1, 100, 20)
    grown = find(log)
    assert confidences(grown)["lr_too_high"] > confidences(grown)["fp16_overflow"]
    assert "the gradient norm has grown from" in evidence(grown, "lr_too_high")


def test_gradients_that_pile_up_are_not_cleared(healthy: Make, spiked: Make, find: Find) -> None:
    """A gradient norm that grows by the same amount each step is missing_zero_grad; exponential growth is not."""
    log = spiked(healthy(), 60, 340)
    log["grad_norm"] = 1.0 + np.arange(400) * 0.5
    finding = find(log)
    assert confidences(finding)["missing_zero_grad"] == 0.65
    log["grad_norm"] = np.exp(np.arange(400) * 0.04)
    assert "missing_zero_grad" not in confidences(find(log))


def stalled(healthy: Make, ratio: float | None) -> Log:
    """A log at chance."""
    log = healthy()
    log["loss"] = CHANCE + 0.01 * np.sin(np.arange(400.0))
    if ratio is None:
        del log["update_ratio"]
    else:
        log["update_ratio"][:] = ratio
    return log


def test_a_stall_with_tiny_updates_is_a_low_rate(healthy: Make, find: Find) -> None:
    """At chance with updates of 1e-7: lr_too_low; with usual ones: label_shuffle; unknown: neither is the verdict."""
    assert find(stalled(healthy, 1e-7)).verdict == "lr_too_low"
    assert find(stalled(healthy, 1e-3)).verdict == "label_shuffle"
    unknown = find(stalled(healthy, None))
    assert [event.kind for event in unknown.symptoms] == ["stall"]
    assert unknown.verdict == "unexplained"
    assert confidences(unknown).keys() == {"lr_too_low", "label_shuffle"}


def test_a_collapse_is_read_by_its_gradient(healthy: Make, find: Find) -> None:
    """At chance from step 300 on: without a gradient the network is dead; with one the labels are suspects."""
    log = healthy()
    log["loss"][300:] = CHANCE
    dead = {**log, "grad_norm": np.where(np.arange(400) < 300, 1.0, 1e-4)}
    finding = find(dead)
    assert finding.symptoms[0].kind == "collapse"
    assert "passes no gradient on" in evidence(finding, "lr_too_high")
    assert "label_shuffle" not in confidences(finding)
    alive = find(log)
    assert confidences(alive)["label_shuffle"] == 0.4
    assert alive.verdict == "unexplained"


def evaluated(healthy: Make, loss: float, accuracy: float, bad: slice) -> Log:
    """A log that is evaluated at each step, some evaluations of which are bad."""
    log = healthy()
    log["val_loss"] = log["loss"] * 1.2
    log["val_acc"] = np.linspace(0.01, 0.9, 400)
    log["val_loss"][bad], log["val_acc"][bad] = loss, accuracy
    return log


def test_good_loss_and_bad_accuracy_is_the_metric(healthy: Make, find: Find) -> None:
    """The evaluation's loss is fine, its accuracy at chance: metric_bug."""
    assert find(evaluated(healthy, 0.6, 0.01, slice(300, 400))).verdict == "metric_bug"


def test_both_bad_is_no_verdict(healthy: Make, find: Find) -> None:
    """Loss and accuracy at chance while training does well: two causes that only a replay parts."""
    finding = find(evaluated(healthy, 6.0, 0.01, slice(300, 400)))
    assert [event.kind for event in finding.symptoms] == ["eval_gap"]
    assert confidences(finding) == {"bn_stats_corrupt": 0.4, "train_eval_mismatch": 0.4}
    assert finding.verdict == "unexplained"


def test_one_bad_evaluation_is_a_dip(healthy: Make, find: Find) -> None:
    """A single bad evaluation between good ones is quiet; so is ordinary overfitting."""
    assert find(evaluated(healthy, 6.0, 0.01, slice(300, 301))).symptoms == ()
    assert find(evaluated(healthy, 4.0, 0.7, slice(300, 400))).symptoms == ()


def test_an_evaluation_that_is_not_finite_is_precision(healthy: Make, find: Find) -> None:
    """Nan in evaluation with a finite training loss: statistics of low precision, eps, or corrupt ones."""
    finding = find(evaluated(healthy, math.nan, 0.01, slice(300, 400)))
    assert confidences(finding).keys() == {"bn_low_precision", "norm_eps", "bn_stats_corrupt"}


def moments(healthy: Make, mean: list[float], std: list[float]) -> Log:
    """A log whose input changes at step 300."""
    log, now = healthy(), np.arange(400) >= 300
    noise = 0.01 * np.sin(np.arange(400.0))
    for place, (m0, s0) in enumerate(zip((0.4, 0.0, -0.4), (1.0, 1.0, 1.0), strict=True)):
        log[f"input_mean_{'rgb'[place]}"] = np.where(now, mean[place], m0) + noise
        log[f"input_std_{'rgb'[place]}"] = np.where(now, std[place], s0) + noise
    return log


@pytest.mark.parametrize(
    ("mean", "std", "cause"),
    [
        ([90.0, 0.0, -90.0], [250.0, 250.0, 250.0], "scale_255"),
        ([-0.4, 0.0, 0.4], [1.0, 1.0, 1.0], "channel_swap"),
        ([1.4, 1.0, 0.6], [1.6, 1.6, 1.6], "wrong_mean_std"),
    ],
)
def test_the_inputs_moments_name_what_happened(
    healthy: Make, find: Find, mean: list[float], std: list[float], cause: str
) -> None:
    """Moments that jump are scale, swapped channels, or other means and stds; the loss shows none of it."""
    finding = find(moments(healthy, mean, std))
    assert finding.symptoms[0].kind == "input_shift"
    assert finding.verdict == cause


def test_steady_moments_are_quiet(healthy: Make, find: Find) -> None:
    """The input's noise is no shift."""
    assert find(moments(healthy, [0.4, 0.0, -0.4], [1.0, 1.0, 1.0])).symptoms == ()


def test_one_point_that_heals_is_something_in_its_batch(healthy: Make, spiked: Make, find: Find) -> None:
    """A single huge loss: poisoned batch or outliers, not separable; a merely noisy batch is quiet."""
    finding = find(spiked(healthy(), 350, 1, 20.0))
    assert [event.kind for event in finding.symptoms] == ["transient"]
    assert confidences(finding) == {"poisoned_batch": 0.3, "outlier_samples": 0.3}
    assert finding.verdict == "unexplained"
    assert find(spiked(healthy(), 350, 1, 1.5)).symptoms == ()


def test_noise_worse_than_guessing_is_rate_or_small_batches(healthy: Make, find: Find) -> None:
    """Erratic losses above chance all along: both are named, neither is the verdict."""
    log = healthy()
    log["loss"] = CHANCE * (1.2 + 0.5 * np.sin(np.arange(400) * 2.5))
    finding = find(log)
    assert "instability" in {event.kind for event in finding.symptoms}
    assert "bn_small_batch" in confidences(finding)


def test_confidence_is_bounded_and_every_cause_has_a_replay() -> None:
    """No log gives more than the cap; groups and replays know the same causes."""
    assert REPLAYS.keys() <= GROUP_OF.keys()
    assert best_first([[Candidate("lr_jump", 0.99, "")]])[0].confidence == CAP


def test_two_causes_that_are_as_good_give_no_verdict() -> None:
    """A verdict needs both its threshold and a lead; the later of two events weighs less."""
    assert verdict_of([]) == "unexplained"
    assert verdict_of([Candidate("lr_jump", 0.59, "")]) == "unexplained"
    assert verdict_of([Candidate("lr_jump", 0.7, ""), Candidate("fp16_overflow", 0.65, "")]) == "unexplained"
    assert verdict_of([Candidate("lr_jump", 0.7, ""), Candidate("fp16_overflow", 0.6, "")]) == "lr_jump"
    ranked = best_first([[Candidate("lr_too_high", 0.5, "")], [Candidate("lr_jump", 0.6, "")]])
    assert [candidate.cause for candidate in ranked] == ["lr_too_high", "lr_jump"]

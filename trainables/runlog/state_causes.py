"""What speaks for numerics, for the step's code, for the data, or for the evaluation. Each function is one rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from trainables.runlog.candidates import Candidate
from trainables.runlog.eval_gap import value_at
from trainables.runlog.rate_causes import HEALTHY_RATIO
from trainables.runlog.scene import Scene
from trainables.runlog.symptoms import Seen

AGAIN = 4
"""Spikes that are no accident."""
REGULAR = 0.1
"""Scatter of the distances between them, as a share, up to which they keep time."""
HALVINGS = 3
"""Falls of the loss scale within 50 points that are no routine: a dynamic scale is tried out every 2000 steps."""
LINEAR = 0.97
"""Correlation of the gradient norm with the step from which it grows linearly."""
ALIKE = 0.1
"""Largest difference of channel moments, in units of a std, up to which they are the same."""


def fp16_overflow(scene: Scene) -> Iterator[Candidate]:
    """The loss scale is halved again and again before the event."""
    scale = scene.part.get("loss_scale")
    if scale is None:
        return
    start, stop = max(0, scene.place - 50), min(len(scale), scene.place + 4)
    window = scale[start:stop]
    falls = [start + k + 1 for k, (a, b) in enumerate(pairwise(window.tolist())) if b < a]
    halvings = sum(math.log2(scale[k - 1] / scale[k]) for k in falls if scale[k] > 0)
    if halvings < 2:
        return
    told = f"the loss scale falls from {scale[falls[0] - 1]:.6g} to {scale[falls[-1]]:.6g} between steps"
    evidence = f"{told} {scene.step(falls[0] - 1)} and {scene.step(falls[-1])}; the {scene.kind} begins at step"
    yield Candidate("fp16_overflow", 0.7 if halvings >= HALVINGS else 0.5, f"{evidence} {scene.step(scene.place)}")


def non_finite(scene: Scene) -> Iterator[Candidate]:
    """A loss or gradient that is not finite, where no loss scale tells more."""
    if scene.kind != "non_finite" or any(fp16_overflow(scene)):
        return
    step, norms = scene.step(scene.place), scene.growth("grad_norm")
    own = scene.part.loss[max(0, scene.place - 3) : scene.place]
    before = f"it begins at step {step}"
    if len(own):
        before = f"the loss is {own[-1]:.3g} at the last point before step {step}"
    if norms and norms[1] >= 3.0 * norms[0] > 0:
        grown = f"the gradient norm has grown from {norms[0]:.3g} to {norms[1]:.3g}"
        evidence = f"{before}; {grown}; the log has no loss scale that falls"
        yield Candidate("fp16_overflow", 0.3, evidence)
        yield Candidate("lr_too_high", 0.35, evidence)
        return
    if not math.isfinite(scene.part.loss[scene.place]):
        evidence = f"{before}, {scene.part.loss[scene.place]:g} there, without a sign before"
        for cause, confidence in (("non_finite_input", 0.25), ("fp16_overflow", 0.25), ("loss_numerics", 0.2)):
            yield Candidate(cause, confidence, evidence)
    else:
        yield Candidate("fp16_overflow", 0.4, f"{before}; the gradient norm is not finite while the loss is")


def missing_zero_grad(scene: Scene) -> Iterator[Candidate]:
    """The gradient norm grows by the same amount each step."""
    norms = scene.part.get("grad_norm")
    if norms is None:
        return
    start = max([0, scene.place - 60, *(k for k in scene.part.resumes if k <= scene.place)])
    window = norms[start : scene.place + 1]
    if len(window) < 8:
        window = norms[start : scene.place + 8]
    if len(window) < 8 or not np.isfinite(window).all() or window.min() <= 0:
        return
    places = np.arange(len(window))
    steps = scene.part.steps[start : start + len(window)]
    growth = float(window[-1] / window[0])
    if growth < 4 or np.ptp(window) == 0:
        return
    linear = float(np.corrcoef(places, window)[0, 1])
    exponential = float(np.corrcoef(places, np.log(window))[0, 1])
    if linear >= LINEAR and linear > exponential:
        told = f"from {window[0]:.3g} at step {steps[0]} to {window[-1]:.3g} at step {steps[-1]}"
        evidence = f"the gradient norm grows {told}, by the same amount a step (correlation {linear:.3f})"
        yield Candidate("missing_zero_grad", 0.65, evidence)


def labels(scene: Scene) -> Iterator[Candidate]:
    """At chance although the weights move, or although there is a gradient."""
    if scene.kind == "stall":
        ratio = scene.part.get("update_ratio")
        if ratio is None:
            yield Candidate("label_shuffle", 0.3, f"{scene.seen.event.detail}; no update ratio in the log")
        elif (usual := float(np.nanmedian(ratio))) >= HEALTHY_RATIO:
            evidence = f"{scene.seen.event.detail}, though the updates are {usual:.2g} of the weights"
            yield Candidate("label_shuffle", 0.6, evidence)
    if scene.kind != "collapse":
        return
    old, new = scene.before("grad_norm", 40), scene.after("grad_norm", 40)
    if old.size < 5 or new.size < 5:
        yield Candidate("label_shuffle", 0.25, f"{scene.seen.event.detail}; no gradient norm in the log")
        return
    before, after = float(np.median(old)), float(np.median(new[len(new) // 2 :]))
    told = f"{scene.seen.event.detail}; the gradient norm is {before:.3g} before and {after:.3g} afterwards"
    if after < 0.1 * before:
        yield Candidate("lr_too_high", 0.45, f"{told}: the network passes no gradient on")
    elif after > 0.5 * before:
        yield Candidate("label_shuffle", 0.4, told)


def transient(scene: Scene) -> Iterator[Candidate]:
    """One point that heals at the next: something in that batch."""
    if scene.kind == "transient":
        for cause in ("poisoned_batch", "outlier_samples"):
            yield Candidate(cause, 0.3, f"{scene.seen.event.detail}, at step {scene.step(scene.place)}")


def recurring(seen: Sequence[Seen]) -> Iterator[Candidate]:
    """Spikes that come again and again: as regularly as an epoch, which the data do, or not."""
    steps = [one.event.step for one in seen if one.event.kind in ("spike", "transient")]
    if len(steps) < AGAIN:
        return
    gaps = np.diff(steps)
    told = f"{len(steps)} spikes, at steps {', '.join(map(str, steps[:AGAIN]))}, ..."
    if float(np.std(gaps)) < REGULAR * float(np.mean(gaps)):
        yield Candidate("poisoned_batch", 0.5, f"{told}, one each {np.mean(gaps):.0f} steps, as an epoch comes again")
    else:
        evidence = f"{told}, {int(gaps.min())} to {int(gaps.max())} steps apart"
        yield Candidate("lr_too_high", 0.4, evidence)
        yield Candidate("edge_of_stability", 0.35, evidence)


def batch_at_fault(scene: Scene) -> Iterator[Candidate]:
    """A spike with a steady, or no, learning rate may come from its samples."""
    if scene.kind == "spike" and not scene.rises() and scene.resumed_at() is None and not scene.is_early:
        length = scene.seen.end - scene.place + 1
        evidence = f"{scene.seen.event.detail}; it lasts {length} points, to step {scene.step(scene.seen.end)}"
        yield Candidate("poisoned_batch", 0.2, evidence)


def input_moments(scene: Scene) -> Iterator[Candidate]:
    """How the input's channel means and stds changed."""
    if scene.kind != "input_shift":
        return
    means, stds = scene.part.moments("input_mean"), scene.part.moments("input_std")
    old, new = slice(max(0, scene.place - 40), scene.place), slice(scene.place, scene.place + 10)
    if scene.place == 0 or not means:
        yield Candidate("wrong_mean_std", 0.5, scene.seen.event.detail)
        return
    mean, std = (np.array([np.median(c[old]) for c in part]) for part in (means, stds))
    mean_now, std_now = (np.array([np.median(c[new]) for c in part]) for part in (means, stds))
    wider = float(np.median(std_now / np.maximum(std, 1e-9)))
    told = f"{scene.seen.event.detail}, from step {scene.step(scene.place)} on"
    if wider > 20 or wider < 1 / 20:
        yield Candidate("scale_255", 0.7, f"{told}: {wider:.3g} times as wide")
    elif len(mean) == 3 and _swapped(mean, std, mean_now, std_now):
        yield Candidate("channel_swap", 0.7, f"{told}: the first and the last channel have changed places")
    else:
        yield Candidate("wrong_mean_std", 0.6, told)


def _swapped(mean: np.ndarray, std: np.ndarray, mean_now: np.ndarray, std_now: np.ndarray) -> bool:
    """Whether first and last channel changed places, where they differ enough to tell."""
    unit = np.maximum(std, 1e-9)
    distance = np.abs(np.concatenate([(mean_now[::-1] - mean) / unit, (std_now[::-1] - std) / unit])).max()
    apart = max(abs(mean[0] - mean[2]), abs(std[0] - std[2])) / unit.max()
    return bool(distance < ALIKE < apart)


def evaluation(scene: Scene) -> Iterator[Candidate]:
    """Training does well and the evaluation doesn't: the metric, the running statistics, or the other pipeline."""
    if scene.kind != "eval_gap":
        return
    index = int(np.flatnonzero(scene.part.eval_steps == scene.seen.event.step)[0])
    loss, accuracy = (value_at(scene.part, key, index) for key in ("val_loss", "val_accuracy"))
    detail = scene.seen.event.detail
    if loss is not None and not math.isfinite(loss):
        for cause, confidence in (("bn_low_precision", 0.35), ("norm_eps", 0.3), ("bn_stats_corrupt", 0.3)):
            yield Candidate(cause, confidence, detail)
        return
    chance = math.log(scene.num_classes) if scene.num_classes else None
    train = float(np.median(scene.part.loss[max(0, scene.place - 9) : scene.place + 1]))
    good = loss is not None and loss < (0.5 * chance if chance else 2.0 * train)
    if good and accuracy is not None:
        yield Candidate("metric_bug", 0.7, f"{detail}, though the evaluation loss is {loss:.3g}")
        return
    shown = f"{detail}; evaluation loss {loss:.3g}" if loss is not None else f"{detail}; no evaluation loss in the log"
    yield Candidate("bn_stats_corrupt", 0.4, shown)
    yield Candidate("train_eval_mismatch", 0.4, shown)


SUDDEN_RULES = (fp16_overflow, non_finite, missing_zero_grad, batch_at_fault)
"""For the kinds in rate_causes.SUDDEN."""
OTHER_RULES = (labels, transient, input_moments, evaluation)

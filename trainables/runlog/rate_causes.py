"""What speaks for the learning rate, or for a restart without the optimizer's state. Each function is one rule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainables.runlog.candidates import Candidate
from trainables.runlog.scene import Scene

SUDDEN = ("spike", "divergence", "collapse", "non_finite", "instability")
HOT_RATIO = 0.02
"""Update over weights from which a step is hot: about 1e-3 is usual."""
TINY_RATIO = 1e-5
HEALTHY_RATIO = 3e-4
"""Update over weights up to which a stalled run hardly moves, and from which it moves as others do."""
CLIMBED = 2.0
"""Factor by which a decayed rate has risen again, or a ramp has grown, that counts."""


def lr_jump(scene: Scene) -> Iterator[Candidate]:
    """The logged rate jumps up at the event."""
    for place in scene.rises()[-1:]:
        rates = scene.part.others["learning_rate"]
        factor = float(rates[place] / rates[place - 1])
        told = f"the rate rises {factor:.3g}-fold, from {rates[place - 1]:.4g} to {rates[place]:.4g}, at step"
        evidence = f"{told} {scene.step(place)}; the {scene.kind} begins at step {scene.step(scene.place)}"
        confidence = 0.7 if factor >= CLIMBED else 0.5
        if scene.place - place > 4:
            confidence -= 0.1
        yield Candidate("lr_jump", confidence, evidence)


def lr_climbs_again(scene: Scene) -> Iterator[Candidate]:
    """A rate that had decayed climbs smoothly before the event: a cosine beyond its period, or a warm restart."""
    rates = scene.part.get("learning_rate")
    if rates is None or scene.rises() or scene.place < 3:
        return
    past = rates[: scene.place + 1]
    if not np.isfinite(past).all():
        return
    peak = np.maximum.accumulate(past)
    low = int(np.argmin(np.where(peak > 0, past / np.where(peak > 0, peak, 1.0), 1.0)))
    if past[low] <= peak[low] / CLIMBED and past[-1] > CLIMBED * past[low]:
        told = f"the rate fell from {peak[low]:.4g} to {past[low]:.4g} at step {scene.step(low)}, and is {past[-1]:.4g}"
        evidence = f"{told} again at step {scene.step(scene.place)}, where the {scene.kind} begins"
        yield Candidate("lr_jump", 0.6, evidence)


def early_rate(scene: Scene) -> Iterator[Candidate]:
    """An event of the first steps: the peak was there at once, or the rate was still rising."""
    rates = scene.part.get("learning_rate")
    if not scene.is_early or scene.rises():
        return
    step = scene.step(scene.place)
    if rates is None:
        evidence = f"the {scene.kind} begins as early as step {step}; the log has no learning rate"
        yield Candidate("lr_too_high", 0.2, evidence)
        yield Candidate("warmup_missing", 0.2, evidence)
        return
    past = rates[: scene.place + 1]
    past = past[np.isfinite(past)]
    if not past.size or past.max() <= 0:
        return
    if past[0] >= 0.9 * past.max():
        evidence = f"the rate is {past[0]:.4g} from step {scene.step(0)} on, without a warm-up; "
        evidence += f"the {scene.kind} begins at step {step}"
        yield Candidate("warmup_missing", 0.45, evidence)
        yield Candidate("lr_too_high", 0.45 + hot(scene)[0], evidence + hot(scene)[1])
    elif past[-1] >= CLIMBED * past[0] and past[-1] >= 0.9 * past.max():
        told = f"the rate had risen from {past[0]:.4g} to {past[-1]:.4g} at step {step}"
        evidence = f"{told}, where the {scene.kind} begins"
        yield Candidate("lr_too_high", 0.5 + hot(scene)[0], evidence + hot(scene)[1])


def late_rate(scene: Scene) -> Iterator[Candidate]:
    """An event later on with nothing else to see: a rate that is too high, or at the edge; no log parts the two."""
    if scene.is_early or scene.rises() or scene.resumed_at() is not None:
        return
    rates = scene.part.get("learning_rate")
    base, evidence = 0.2, f"the {scene.kind} begins at step {scene.step(scene.place)}, with no change before it"
    if rates is not None and np.isfinite(rates[scene.place]):
        top = float(np.nanmax(rates))
        evidence += f", at a rate of {rates[scene.place]:.4g} (peak {top:.4g})"
        base = 0.3 if rates[scene.place] >= 0.5 * top else 0.15
    else:
        evidence += " that the log shows; it has no learning rate"
    extra, more = hot(scene)
    yield Candidate("lr_too_high", base + extra, evidence + more)
    if scene.kind == "spike":
        yield Candidate("edge_of_stability", base - 0.05, evidence)


def optimizer_state_lost(scene: Scene) -> Iterator[Candidate]:
    """The run was taken up again just before, at the same rate."""
    place = scene.resumed_at()
    if place is None or place < 1 or scene.rises():
        return
    went_back = scene.part.steps[place] <= scene.part.steps[place - 1]
    what = "goes back" if went_back else "has a hole"
    evidence = f"the log {what} from step {scene.step(place - 1)} to {scene.step(place)}; "
    evidence += f"the {scene.kind} begins at step {scene.step(scene.place)}"
    weaker = 0.0 if went_back else 0.1
    rates = scene.part.get("learning_rate")
    if rates is not None and np.isfinite(rates[place - 1 : place + 1]).all():
        evidence += f"; the rate goes on at {rates[place]:.4g} (before {rates[place - 1]:.4g})"
        yield Candidate("optimizer_state_lost", 0.6 - weaker, evidence)
    else:
        evidence += "; the log has no learning rate there"
        yield Candidate("optimizer_state_lost", 0.4 - weaker, evidence)
        yield Candidate("lr_jump", 0.3 - weaker, evidence)


def stalled_rate(scene: Scene) -> Iterator[Candidate]:
    """A run that never moved, because its steps were tiny."""
    if scene.kind != "stall":
        return
    ratio, rates = scene.part.get("update_ratio"), scene.part.get("learning_rate")
    if ratio is not None:
        usual = float(np.nanmedian(ratio))
        evidence = f"{scene.seen.event.detail}; the updates are {usual:.2g} of the weights"
        if usual < TINY_RATIO:
            yield Candidate("lr_too_low", 0.7, evidence)
        elif usual < HEALTHY_RATIO:
            yield Candidate("lr_too_low", 0.4, evidence)
        return
    shown = f"a rate of {float(np.nanmax(rates)):.3g} at most" if rates is not None else "no learning rate in the log"
    yield Candidate("lr_too_low", 0.3, f"{scene.seen.event.detail}; {shown}, and no update ratio")


def hot(scene: Scene) -> tuple[float, str]:
    """Further confidence in a rate that is too high, and the numbers: hot updates, growing gradients."""
    extra, told = 0.0, ""
    ratio = scene.before("update_ratio", 5)
    if ratio.size and float(np.median(ratio)) >= HOT_RATIO:
        extra += 0.15
        told += f"; before it the updates are {float(np.median(ratio)):.2g} of the weights (usual: about 0.001)"
    norms = scene.growth("grad_norm")
    if norms and norms[1] >= 3.0 * norms[0] > 0:
        extra += 0.05
        told += f"; the gradient norm has grown from {norms[0]:.3g} to {norms[1]:.3g} before it"
    return extra, told


def unsteady(scene: Scene) -> Iterator[Candidate]:
    """Worse than guessing and noisy: the rate, or statistics over few samples."""
    if scene.kind == "instability":
        yield Candidate("lr_too_high", 0.4 + hot(scene)[0], scene.seen.event.detail + hot(scene)[1])
        yield Candidate("bn_small_batch", 0.35, scene.seen.event.detail)


RULES = (lr_jump, lr_climbs_again, early_rate, late_rate, optimizer_state_lost)
"""For the kinds in SUDDEN."""

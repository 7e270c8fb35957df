"""Which cause stands behind an ingredient that is a plain value: a rate, a setting, a number format."""

from __future__ import annotations

from trainables.diagnosis.case import Case
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.references import RateReference, Reference
from trainables.ingredients import Stream
from trainables.norms import NormSettings, batch_norms
from trainables.recipe import Recipe

FLAT = 0.01
"""Relative change of a rate over its first steps up to which it doesn't warm up."""
WARMED = 2.0
"""Ratio of the first rate to the config's from which a warm-up is missing rather than a factor off."""


def name_rate(rate: RateReference, stream: Stream, step: int) -> NamedCause:
    """A jump where a change was undone, a warm-up that was missed, else too high or too low.

    Too high is the edge of stability too: no probe here parts the two.
    """
    now, changed_at = stream(step).learning_rate, rate.changed_at
    if rate.kind == "warm-up":
        text = f"rate {now:.4g} from step 0 on; a run with {rate.swap.name} stays healthy"
        return NamedCause("warmup_missing", text, Culprits(step=0))
    if rate.kind == "raised" or (rate.kind == "declared" and rate.divisor < 1):
        return NamedCause("lr_too_low", f"rate {now:.4g}; {rate.rate:.4g} makes progress")
    if changed_at is None:
        return NamedCause("lr_too_high", f"rate {now:.4g}; {rate.rate:.4g} stays healthy")
    return name_foreign_start(rate, stream, step) if changed_at == 0 else name_rise(rate, stream, changed_at, now)


def name_foreign_start(rate: RateReference, stream: Stream, step: int) -> NamedCause:
    """A rate that never was the config's: flat where the config warms up, or a multiple of it."""
    first, culprits = stream(0).learning_rate, Culprits(step=0)
    if abs(stream(step).learning_rate / first - 1.0) < FLAT and rate.divisor > WARMED:
        text = f"rate {first:.4g} from step 0 on, where the config warms up from {rate.rate:.4g}"
        return NamedCause("warmup_missing", text, culprits)
    return NamedCause("lr_too_high", f"rate {first:.4g} where the config has {rate.rate:.4g}", culprits)


def name_rise(rate: RateReference, stream: Stream, changed_at: int, now: float) -> NamedCause:
    """A jump, or a climb that began there."""
    before, after = stream(changed_at - 1).learning_rate, stream(changed_at).learning_rate
    text = f"the rate goes from {before:.4g} to {after:.4g} at step {changed_at}"
    if rate.kind == "climb":
        text = f"the rate has climbed from {before:.4g} at step {changed_at - 1} to {now:.4g}"
    return NamedCause("lr_jump", text, Culprits(step=changed_at))


def name_statistics(recipe: Recipe) -> NamedCause:
    """Over how few samples batch norm takes its statistics."""
    batch = recipe.config.global_batch_size
    over = recipe.config.model.ghost_batch_size if recipe.config.model.norm == "ghost_bn" else batch
    return NamedCause("bn_small_batch", f"statistics over {min(over, batch)} samples a step")


def name_norm_settings(case: Case, reference: Reference) -> NamedCause:
    """Frozen, eps or momentum: whichever differs from the reference."""
    step = reference.since if reference.since is not None else case.snapshot.step
    layer = batch_norms(case.state.model)[0]
    own = NormSettings(float(layer.momentum or 0.0), layer.eps)
    run = case.stream(step).norm or own
    plain = reference.swap(case.stream(step)).norm or own
    culprits = Culprits(step=reference.since)
    if run.frozen != plain.frozen:
        return NamedCause("bn_frozen", f"running statistics normalise in training from step {step} on", culprits)
    if run.eps != plain.eps:
        return NamedCause("norm_eps", f"eps {run.eps:g} instead of {plain.eps:g}", culprits)
    return NamedCause("bn_momentum", f"momentum {run.momentum:g} instead of {plain.momentum:g}", culprits)


def name_moments(case: Case, reference: Reference) -> NamedCause:
    """The second moment of an adaptive optimizer, or its first."""
    step = reference.since if reference.since is not None else case.snapshot.step
    run, plain = case.stream(step).optim, reference.swap(case.stream(step)).optim
    culprits = Culprits(step=reference.since)
    if case.config.optim.kind in ("adamw", "lamb"):
        text = f"betas {run.betas} and eps {run.eps:g} instead of {plain.betas} and {plain.eps:g}"
        return NamedCause("adaptive_state_lag", text, culprits)
    return NamedCause("moments", f"momentum {run.momentum:g} instead of {plain.momentum:g}", culprits)


def name_weight_decay(case: Case, reference: Reference) -> NamedCause:
    """How much of it."""
    step = reference.since if reference.since is not None else case.snapshot.step
    run, plain = case.stream(step).optim, reference.swap(case.stream(step)).optim
    text = f"weight decay {run.weight_decay:g}; {plain.weight_decay:g} stays healthy"
    return NamedCause("weight_decay", text, Culprits(step=reference.since))


def name_number_format(case: Case, reference: Reference) -> NamedCause:
    """bfloat16 rounds; float16 overflows where steps are not finite, else loses small gradients."""
    step = reference.since if reference.since is not None else case.snapshot.step
    run, culprits = case.stream(step), Culprits(step=reference.since)
    if run.amp != "fp16":
        return NamedCause("bn_low_precision", f"{run.amp} autocast", culprits)
    scale = "an adaptive loss scale" if run.loss_scale is None else f"loss scale {run.loss_scale:g}"
    signals = case.replay("as run", []).signals
    bad = [s.step for s in signals if not s.applied]
    if bad:
        return NamedCause("fp16_overflow", f"float16 under {scale}: step {bad[0]} is not finite", culprits)
    return NamedCause("fp16_underflow", f"float16 under {scale}: small gradients become 0", culprits)

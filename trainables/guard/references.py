"""The reference value of every ingredient of a guarded loop, as a swap of plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from trainables.guard.history import History
from trainables.guard.replay import GuardSwap, LoopReplayer
from trainables.guard.state import MOMENTA
from trainables.guard.stepper import Groups, Stepper, StepPlan
from trainables.guard.verdict import Ingredient
from trainables.rng import generator
from trainables.schedules import change_points

LADDER = (4.0, 16.0)
"""Divisors of the rate where it has no jump to go back behind."""
LEAST_POOL = 4
"""Batches from which others can be drawn."""
INSIDE_A_BATCH = "whole batches are swapped: what lies inside one is the batch function's"


@dataclass(frozen=True)
class LoopRate:
    """A rate to hold instead of the loop's own."""

    swap: GuardSwap
    cap: Callable[[StepPlan], StepPlan] | None
    """The same as a cure that goes on: it lowers a rate, and raises none. None: the rate had fallen."""
    cause: str
    evidence: str


@dataclass(frozen=True)
class References:
    """A swap an ingredient, the rate aside, and why others have none."""

    swaps: dict[Ingredient, GuardSwap]
    not_tested: dict[str, str]


def build_references(stepper: Stepper, history: History, onset: int, start: int) -> References:
    """Reference swaps of all that this loop lets be swapped; `start` is the replayed stretch's first step."""
    swaps: dict[Ingredient, GuardSwap] = {}
    missing = {"pixels": INSIDE_A_BATCH, "labels": INSIDE_A_BATCH, "device": "there is no other one to replay on"}
    pool = [number for number in history.healthy_batches(onset) if stepper.batches.has(number)]
    if len(pool) >= LEAST_POOL:
        swaps["samples"] = other_batches(pool)
    else:
        missing["samples"] = f"only {len(pool)} batches came before the event, and {LEAST_POOL} are needed"
    if has_momentum(stepper):
        swaps["optimizer_state"] = GuardSwap(
            f"momentum zeroed before step {start}", lambda plan: replace(plan, zero_momentum=plan.step == start)
        )
    else:
        missing["optimizer_state"] = f"the optimizer keeps none of {', '.join(MOMENTA)}"
    if stepper.fp32_step is not None:
        swaps["number_format"] = GuardSwap("float32 step", lambda plan: replace(plan, fp32=True))
    else:
        missing["number_format"] = "no fp32_step was given"
    if stepper.norms:
        swaps["normalization"] = GuardSwap("running statistics", lambda plan: replace(plan, frozen_statistics=True))
    else:
        missing["normalization"] = "the model has no batch norm with running statistics"
    return References(swaps, missing)


def other_batches(pool: list[int]) -> GuardSwap:
    """Batches that trained before the event, another draw at each step."""
    return GuardSwap(
        "batches from before the event",
        lambda plan: replace(plan, batch=int(generator("guard", "other_batches", plan.step).choice(pool))),
    )


def has_momentum(stepper: Stepper) -> bool:
    """Whether some parameter has a first moment."""
    return any(state.keys() & set(MOMENTA) for state in stepper.optimizer.state.values())


def last_jump(history: History, onset: int) -> int | None:
    """The last step up to the onset at which the rate that was used jumped."""
    first, rates = history.rates()
    jumps = [first + i for i in change_points(rates) if first + i <= onset]
    return jumps[-1] if jumps else None


def rate_before(replayer: LoopReplayer, jump: int) -> LoopRate:
    """The rates of the step before the jump, held from there on."""
    held, now = replayer.plan(jump - 1).groups, replayer.plan(jump).groups
    assert held is not None
    assert now is not None

    def hold(plan: StepPlan) -> StepPlan:
        return replace(plan, groups=_with_rates(plan.groups, [g["lr"] for g in held])) if plan.step >= jump else plan

    def cap(plan: StepPlan) -> StepPlan:
        assert plan.groups is not None
        rates = [min(group["lr"], before["lr"]) for group, before in zip(plan.groups, held, strict=True)]
        return replace(plan, groups=_with_rates(plan.groups, rates)) if plan.step >= jump else plan

    before, after = held[0]["lr"], now[0]["lr"]
    swap = GuardSwap(f"{before:.4g} held from step {jump} on", hold)
    evidence = f"the rate goes from {before:.4g} to {after:.4g} at step {jump}"
    return LoopRate(swap, cap if after > before else None, "lr_jump", evidence)


def rate_divided(replayer: LoopReplayer, divisor: float, onset: int) -> LoopRate:
    """The loop's own rates divided by `divisor`: a rung of the ladder."""

    def divide(plan: StepPlan) -> StepPlan:
        assert plan.groups is not None
        return replace(plan, groups=_with_rates(plan.groups, [g["lr"] / divisor for g in plan.groups]))

    groups = replayer.plan(onset).groups
    assert groups is not None
    now = groups[0]["lr"]
    evidence = f"rate {now:.4g}; {now / divisor:.4g} stays healthy"
    return LoopRate(GuardSwap(f"rate / {divisor:g}", divide), divide, "lr_too_high", evidence)


def skipped(batches: tuple[int, ...]) -> GuardSwap:
    """No step on the named batches."""
    return GuardSwap(
        "guilty batches skipped", lambda plan: replace(plan, batch=None) if plan.batch in batches else plan
    )


def clipped(norm: float) -> GuardSwap:
    """Gradients clipped to `norm`."""
    return GuardSwap(f"gradient clipped to {norm:.3g}", lambda plan: replace(plan, max_grad_norm=norm))


def _with_rates(groups: Groups | None, rates: list[float]) -> Groups:
    assert groups is not None
    pairs: zip[tuple[Mapping[str, object], float]] = zip(groups, rates, strict=True)
    return tuple({**group, "lr": rate} for group, rate in pairs)

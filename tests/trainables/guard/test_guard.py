"""The guard in real loops: silent where they are healthy, right where they are not, and never in the way."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from trainables.errors import ConfigError
from trainables.guard import GuardDiagnosis, GuardSettings, SpikeError, SpikeGuard
from trainables.guard.state import RandomState

if TYPE_CHECKING:
    from tests.trainables.guard.conftest import Batch, Loop, MakeLoop

JUMP = 60
POISONED = range(62, 66)


def jump(k: int) -> float:
    """A rate that rises to the thirtyfold."""
    return 3.0 if k >= JUMP else 0.1


def wrong_labels(k: int, batch: Batch) -> Batch:
    """Labels moved by one class in some batches."""
    return (batch[0], (batch[1] + 1) % 10) if k in POISONED else batch


def augmented(_k: int, batch: Batch) -> Batch:
    """An augmentation out of all three global generators."""
    shift = random.random() + float(np.random.rand())  # noqa: NPY002, S311 - what people's loops do
    return batch[0] + 0.02 * shift * torch.randn(batch[0].shape), batch[1]


def same_randomness(one: RandomState, other: RandomState) -> bool:
    """Whether all global generators stand at the same point."""
    return (
        one.python == other.python
        and np.array_equal(one.numpy[1], other.numpy[1])
        and one.numpy[2] == other.numpy[2]
        and torch.equal(one.torch, other.torch)
    )


def seed_all() -> None:
    """Put the global generators at one point."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - as in people's loops
    torch.manual_seed(1)


def run_both(make: Callable[[], Loop], steps: int) -> tuple[Loop, Loop, SpikeGuard, bool]:
    """The loop without and with a guard: both, the guard, and whether the generators ended alike."""
    plain = make()
    seed_all()
    plain.run(steps)
    left = RandomState.read()
    guarded = make()
    guard = guarded.guard()
    seed_all()
    guarded.run_guarded(guard, steps)
    return plain, guarded, guard, same_randomness(left, RandomState.read())


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize(("optimizer", "rate"), [(torch.optim.SGD, 0.1), (torch.optim.AdamW, 1e-3)])
def test_healthy_run_is_silent_and_untouched(
    make_loop: MakeLoop, network: str, optimizer: Callable[..., torch.optim.Optimizer], rate: float
) -> None:
    """300 healthy steps with random augmentation, dropout and batch norm raise no event and keep every bit."""
    plain, guarded, guard, alike = run_both(
        lambda: make_loop(network, optimizer, spoil=augmented, rate_at=lambda k: rate), 300
    )
    assert guard.events == []
    assert guarded.has_bits_of(plain)
    assert alike


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_rate_jump_is_named(make_loop: MakeLoop, network: str) -> None:
    """A rate that jumps is the cause: its step is named, and the rate of before is a verified remedy."""
    loop = make_loop(network, rate_at=jump)
    guard = loop.guard()
    loop.run_guarded(guard, JUMP + 20)
    event = guard.events[0]
    assert event.cause == "lr_jump", event.summary
    assert "from 0.1 to 3 at step 60" in event.summary
    assert event.remedy is not None
    assert event.remedy.verified
    assert event.controls is not None
    assert event.controls.first_difference is None


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("ill", [False, True])
def test_a_loop_with_mixup_tells_its_share(make_loop: MakeLoop, network: str, *, ill: bool) -> None:
    """Shares that vary are no spikes, over 400 steps; a rate that jumps still is one, and named."""
    loop = make_loop(network, rate_at=jump if ill else lambda k: 0.05)
    loop.mixup_alpha = 0.2
    guard = loop.guard(settings=GuardSettings(num_classes=10))
    loop.run_guarded(guard, JUMP + 20 if ill else 400)
    assert [event.cause for event in guard.events[:1]] == ["lr_jump"] * ill


def test_hot_rate_without_a_jump_is_named(make_loop: MakeLoop) -> None:
    """A rate that climbs too high without a jump is divided until the replay stays healthy."""
    loop = make_loop("mlp", rate_at=lambda k: 0.05 * 1.08**k)
    guard = loop.guard()
    loop.run_guarded(guard, 90)
    assert guard.events
    assert guard.events[0].cause == "lr_too_high", guard.events[0].summary
    assert guard.events[0].remedy is not None
    assert guard.events[0].remedy.verified


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_poisoned_batches_are_named(make_loop: MakeLoop, network: str) -> None:
    """Batches with wrong labels are the cause, and each is named by its number."""
    loop = make_loop(network, spoil=wrong_labels)
    guard = loop.guard()
    loop.run_guarded(guard, 80)
    (event,) = guard.events
    assert event.cause == "poisoned_batch", event.summary
    assert event.batches == tuple(POISONED)
    assert event.remedy is not None
    assert event.remedy.verified


def test_non_finite_batch_is_named(make_loop: MakeLoop) -> None:
    """One batch with a nan pixel is the cause of a loss that is nan from then on."""

    def nan_pixel(k: int, batch: Batch) -> Batch:
        return (batch[0].index_fill(0, torch.tensor([3]), math.nan), batch[1]) if k == 44 else batch

    loop = make_loop(spoil=nan_pixel)
    guard = loop.guard()
    loop.run_guarded(guard, 46)
    assert guard.events[0].symptom.kind == "non_finite"
    assert guard.events[0].cause == "poisoned_batch", guard.events[0].summary
    assert guard.events[0].batches == (44,)


def test_what_does_not_come_back_is_unexplained(make_loop: MakeLoop) -> None:
    """An event that an exact replay does not bring back has no cause here, and the first foreign step is named."""
    calls = 0

    def flaky(_k: int, batch: Batch) -> Batch:
        nonlocal calls
        calls += 1
        return (batch[0], (batch[1] + 1) % 10) if 62 < calls <= 68 else batch

    loop = make_loop(spoil=flaky)
    guard = loop.guard()
    loop.run_guarded(guard, 80)
    event = guard.events[0]
    assert event.cause == "unexplained"
    assert "does not bring the event back, its losses differ from step 62 on" in event.summary
    assert event.remedy is None


def test_an_event_that_hangs_on_the_last_bit_is_unexplained(make_loop: MakeLoop) -> None:
    """It comes back exactly, and goes with a millionth of weight noise: any swap that perturbs would seem its cause."""
    spoiled: set[float] = set()
    done = 0

    def chaotic() -> None:
        nonlocal done
        bits = sum(p.detach().double().sum().item() for p in loop.model.parameters())
        if not guard.replaying:
            done += 1
            spoiled.update([bits] if done == 64 else [])
        if bits in spoiled:
            with torch.no_grad():
                for parameter in loop.model.parameters():
                    parameter.mul_(-1.0)

    loop = make_loop(after=chaotic)
    guard = loop.guard()
    loop.run_guarded(guard, 80)
    event = guard.events[0]
    assert event.cause == "unexplained"
    assert "a placebo (1e-6 of weight noise) removes the event: it is chaotic" in event.summary
    assert event.remedy is None


def test_change_from_outside_the_step_is_unexplained(make_loop: MakeLoop) -> None:
    """Weights that the loop spoils between two steps are no ingredient; the step after them is named."""
    loop = make_loop()
    guard = loop.guard()
    for k in range(70):
        if k == 64:
            with torch.no_grad():
                for parameter in loop.model.parameters():
                    parameter.mul_(-1.0)
        guard.run(k)
    assert guard.events[0].cause == "unexplained"
    assert "differ from step 64 on" in guard.events[0].summary


def test_number_format_is_named(make_loop: MakeLoop) -> None:
    """A half-precision overflow is healed by the float32 step alone."""
    loop = make_loop(optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9))
    loop.model.register_buffer("gain", torch.ones(()))
    half = True

    def overflowing(_module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        gain = loop.model.get_buffer("gain")
        gain.mul_(1.2)
        dtype = torch.float16 if half else torch.float32
        return ((logits * 0 + 1).to(dtype) * gain.to(dtype)).float() / gain * logits

    loop.model.register_forward_hook(overflowing)

    def float32_step(batch: Batch) -> torch.Tensor:
        nonlocal half
        half = False
        try:
            return loop.step(batch)
        finally:
            half = True

    guard = loop.guard(fp32_step=float32_step)
    loop.run_guarded(guard, 70)
    assert guard.events[0].cause == "low_precision", guard.events[0].summary


def test_training_goes_on_as_if_nobody_had_looked(make_loop: MakeLoop) -> None:
    """After a diagnosis weights, moments, buffers, gradients and generators are the ones of a run without a guard."""

    def bad(k: int, batch: Batch) -> Batch:
        return augmented(k, wrong_labels(k, batch))

    plain, guarded, guard, alike = run_both(lambda: make_loop("conv", spoil=bad), 90)
    assert guard.events
    assert guard.events[0].replayed_steps > 100
    assert guarded.has_bits_of(plain)
    assert alike


def test_rollback_holds_the_rate(make_loop: MakeLoop) -> None:
    """After a rollback the run is healthy at the rate of before, which the scheduler never sees."""
    loop = make_loop(rate_at=jump)
    guard = loop.guard(on_event="rollback")
    loop.run_guarded(guard, 150)
    (event,) = guard.events
    assert event.action == "rolled_back"
    assert loop.accuracy() > 0.95
    assert loop.optimizer.param_groups[0]["lr"] == 3.0
    plain = make_loop(rate_at=jump)
    plain.run(150)
    assert plain.accuracy() < 0.5


def test_rollback_gives_the_bits_of_a_run_that_never_jumped(make_loop: MakeLoop) -> None:
    """The steps done again under the remedy are those of a loop whose rate stayed."""
    loop = make_loop("conv", rate_at=jump, spoil=augmented)
    guard = loop.guard(on_event="rollback")
    seed_all()
    loop.run_guarded(guard, 100)
    assert [event.action for event in guard.events] == ["rolled_back"]
    calm = make_loop("conv", spoil=augmented)
    seed_all()
    calm.run(100)
    assert loop.has_bits_of(calm)


def test_rollback_skips_the_batches(make_loop: MakeLoop) -> None:
    """After a rollback the weights have never seen the poisoned batches, those still to come included."""
    loop = make_loop(spoil=lambda k, batch: (batch[0], (batch[1] + 1) % 10) if 62 <= k < 75 else batch)
    guard = loop.guard(on_event="rollback")
    loop.run_guarded(guard, 100)
    (event,) = guard.events
    assert event.batches == tuple(range(62, 75))
    clean = make_loop()
    for k in range(100):
        if k not in event.batches:
            clean.step(clean.batch(k))
    assert loop.has_bits_of(clean)


def test_rollbacks_are_capped(make_loop: MakeLoop) -> None:
    """With the cap reached, an event is recorded only."""
    loop = make_loop(rate_at=jump)
    guard = loop.guard(on_event="rollback", settings=GuardSettings(max_rollbacks=0))
    loop.run_guarded(guard, 80)
    assert guard.events[0].action == "recorded"


def test_stop_raises_with_the_diagnosis(make_loop: MakeLoop) -> None:
    """Under "stop" the loop ends in an error that holds the diagnosis, says it, and survives pickling."""
    loop = make_loop(rate_at=jump)
    guard = loop.guard(on_event="stop")
    with pytest.raises(SpikeError, match="lr_jump") as caught:
        loop.run_guarded(guard, 80)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - its own
    assert again.diagnosis.cause == "lr_jump"
    assert again.diagnosis.action == "stopped"


def test_diagnosis_is_json(make_loop: MakeLoop) -> None:
    """What was found can be written down."""
    loop = make_loop(rate_at=jump)
    guard = loop.guard()
    loop.run_guarded(guard, 80)
    written = json.loads(json.dumps(guard.events[0].to_dict()))
    assert written["cause"] == "lr_jump"
    assert written["not_tested"]["number_format"] == "no fp32_step was given"


def test_batches_can_be_given_one_by_one(make_loop: MakeLoop) -> None:
    """Without a batch function the batches seen are remembered, and the guilty ones named."""
    loop = make_loop(spoil=wrong_labels)
    guard = SpikeGuard(loop.model, loop.optimizer, loop.step)
    for k in range(80):
        guard.run(k, loop.batch(k))
    (event,) = guard.events
    assert event.cause == "poisoned_batch", event.summary
    assert set(event.batches) == {k for k in POISONED if k <= event.symptom.step}
    assert len(guard.stepper.batches.seen) == guard.settings.kept_batches


def test_the_end_of_the_data_is_no_obstacle(make_loop: MakeLoop) -> None:
    """A replay that would go past the last batch takes earlier ones there."""
    loop = make_loop(rate_at=jump)
    batches = [loop.batch(k) for k in range(66)]
    guard = SpikeGuard(loop.model, loop.optimizer, loop.step, batches.__getitem__)
    loop.run_guarded(guard, 66)
    assert [event.cause for event in guard.events] == ["lr_jump"]


def test_error_in_a_replay_is_no_error_of_the_run(make_loop: MakeLoop) -> None:
    """A step that can't be run again leaves the event unexplained, says why, and training goes on."""
    loop, plain = make_loop(rate_at=jump), make_loop(rate_at=jump)

    def once(batch: Batch) -> torch.Tensor:
        if guard.replaying:
            raise OSError("the log is closed")
        return loop.step(batch)

    guard = SpikeGuard(loop.model, loop.optimizer, once, loop.batch)
    loop.run_guarded(guard, 70)
    plain.run(70)
    assert guard.events[0].cause == "unexplained"
    assert "a replay raised OSError: the log is closed" in guard.events[0].summary
    assert loop.has_bits_of(plain)


def test_guard_rests_after_its_last_event(make_loop: MakeLoop) -> None:
    """A run that stays ill is diagnosed so many times, not at each step."""
    loop = make_loop(spoil=lambda k, batch: (batch[0] * math.nan, batch[1]) if k >= 20 else batch)
    guard = loop.guard(settings=GuardSettings(max_events=2))
    loop.run_guarded(guard, 30)
    assert len(guard.events) == 2


@pytest.mark.parametrize("form", [torch.mean, lambda losses: losses.detach().mean().item()])
def test_mean_loss_is_enough(make_loop: MakeLoop, form: Callable[[torch.Tensor], object]) -> None:
    """A step that returns the mean, as a tensor or a number, is diagnosed like one that returns each sample's."""
    loop = make_loop(rate_at=jump)
    guard = SpikeGuard(loop.model, loop.optimizer, lambda batch: form(loop.step(batch)), loop.batch)
    loop.run_guarded(guard, 80)
    assert guard.events[0].cause == "lr_jump"


@pytest.mark.parametrize("losses", [None, {"loss": 1.0}, torch.empty(0)])
def test_loss_that_cannot_be_read_is_said(make_loop: MakeLoop, losses: object) -> None:
    """A step that returns no loss ends in one line that says what to return."""
    loop = make_loop()
    guard = SpikeGuard(loop.model, loop.optimizer, lambda _batch: losses, loop.batch)
    with pytest.raises(ConfigError, match=r"step's return value: .* remedy: return the loss"):
        guard.run(0)


def test_steps_come_in_order(make_loop: MakeLoop) -> None:
    """A step left out is said at once; the first one may have any number."""
    guard = make_loop().guard()
    guard.run(7)
    with pytest.raises(ConfigError, match="step: 9 is not allowed; allowed: 8"):
        guard.run(9)


def test_unknown_action_is_said(make_loop: MakeLoop) -> None:
    """`on_event` is checked when the guard is made."""
    with pytest.raises(ConfigError, match="on_event: 'abort' is not allowed; allowed: record, stop, rollback"):
        make_loop().guard(on_event="abort")


def test_half_steps_make_a_step(make_loop: MakeLoop) -> None:
    """A framework that makes the step itself gets the same diagnosis from the two halves."""
    loop = make_loop(rate_at=jump)
    guard = loop.guard()
    events: list[GuardDiagnosis | None] = []
    for k in range(70):
        loop.set_rate(k)
        assert guard.before_step(k)
        events.append(guard.after_step(loop.step(loop.batch(k))))
    assert [event.cause for event in events if event] == ["lr_jump"]
    with pytest.raises(ConfigError, match="after_step"):
        guard.after_step(1.0)


def test_closed_guard_leaves_no_hook(make_loop: MakeLoop) -> None:
    """`close` takes its hooks out of the optimizer."""
    loop = make_loop()
    guard = loop.guard()
    guard.run(0)
    guard.close()
    assert not loop.optimizer._optimizer_step_pre_hooks
    assert not loop.optimizer._optimizer_step_post_hooks


def test_rollback_leaves_the_schedule_where_the_loop_left_it(make_loop: MakeLoop) -> None:
    """A scheduler that the loop steps, given as extra state or not, goes on from its own step after a rollback."""
    for given in (True, False):
        loop = make_loop()
        scheduler = torch.optim.lr_scheduler.MultiStepLR(loop.optimizer, [JUMP], gamma=30.0)
        guard = loop.guard(on_event="rollback", extra_state=[scheduler] if given else [])
        for k in range(JUMP + 20):
            guard.run(k)
            scheduler.step()
        assert [event.action for event in guard.events] == ["rolled_back"]
        assert scheduler.last_epoch == JUMP + 20
        assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(3.0)


def test_draws_between_steps_change_no_replay(make_loop: MakeLoop) -> None:
    """A loop that draws random numbers between its steps, to evaluate say, is replayed to the bit."""
    loop = make_loop("conv", rate_at=jump, spoil=augmented)
    guard = loop.guard()
    for k in range(JUMP + 20):
        loop.set_rate(k)
        guard.run(k)
        torch.rand(k + 1)
    controls = guard.events[0].controls
    assert controls is not None
    assert controls.first_difference is None

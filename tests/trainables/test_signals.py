"""Signals are exact over the global batch."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.signals import AFTER, OF_WEIGHTS, WITHIN, StepRecord, batch_sums, read_signals
from trainables.step_signals import StepSignals


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def totals(n: int, images: Tensor | None = None, losses: Tensor | None = None) -> StepSignals:
    """Of a batch of noise, with losses that are its cross-entropies."""
    logits, labels = noise(n, 5, seed=1), torch.arange(n) % 5
    if losses is None:
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    sums = batch_sums(losses, logits, labels, noise(n, 3, 4, 4) if images is None else images)
    after = torch.tensor([2.0, 0.0, 0.0, *[math.nan] * (AFTER - 3)], dtype=torch.float64)
    return read_signals([StepRecord(7, 0.1, sums, after)])[0]


def test_totals_are_means_over_the_batch() -> None:
    """Loss, accuracy and channel moments agree with a plain computation in float64."""
    n = 12
    logits, labels = noise(n, 5, seed=1), torch.arange(n) % 5
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().numpy()
    pixels = noise(n, 3, 4, 4).double().numpy()
    actual = totals(n)
    assert actual.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert actual.loss_noise == pytest.approx(losses.std(ddof=1) / math.sqrt(n), rel=1e-9)
    assert actual.logit_rms == pytest.approx(float(logits.double().square().mean().sqrt()), rel=1e-12)
    assert actual.top1 == float((logits.argmax(1) == labels).sum()) / n
    assert actual.input_mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-12)
    assert actual.input_std == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-9)


def test_a_batch_of_one_has_no_standard_error() -> None:
    """One loss says nothing of the spread: nan, no division by zero."""
    assert math.isnan(totals(1).loss_noise)


def test_equal_losses_have_no_noise() -> None:
    """A rounding error below zero is no error of the root."""
    assert totals(7, losses=torch.full((7,), 0.1)).loss_noise == pytest.approx(0.0, abs=1e-8)


def test_a_constant_channel_has_std_zero() -> None:
    """A black input has moments, not nan."""
    actual = totals(4, images=torch.full((4, 3, 4, 4), 0.3))
    assert actual.input_std == pytest.approx((0.0, 0.0, 0.0), abs=1e-6)


def test_large_batches_lose_no_digits() -> None:
    """A small spread around a large mean is still seen: sums are in float64."""
    images = 1000.0 + 0.01 * noise(64, 3, 8, 8)
    expected = images.double().numpy().std(axis=(0, 2, 3))
    assert totals(64, images=images).input_std == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    """One bad pixel or one bad loss makes the mean bad, so that it can't go unseen."""
    images = noise(4, 3, 4, 4)
    images[2, 1, 0, 0] = bad
    moments = totals(4, images=images)
    assert not math.isfinite(moments.input_mean[1])
    assert math.isfinite(moments.input_mean[0])
    losses = torch.tensor([0.1, bad, 0.3, 0.2])
    assert not math.isfinite(totals(4, losses=losses).loss)


def test_bfloat16_losses_are_summed_in_float64() -> None:
    """A thousand equal losses in bfloat16 have their own value as the mean."""
    losses = torch.full((1000,), 0.1, dtype=torch.bfloat16)
    assert totals(1000, losses=losses).loss == pytest.approx(float(losses[0]), rel=1e-12)
    assert np.isfinite(totals(1000, losses=losses).loss_noise)


def test_records_are_read_in_order_and_alone() -> None:
    """Many steps read at once are what each read by itself is; none is nothing."""
    sums = [batch_sums(noise(4, seed=i).abs(), noise(4, 5), torch.arange(4), noise(4, 3, 2, 2)) for i in range(3)]
    after = torch.tensor([1.0, 1.0, 0.0, 512.0, *range(AFTER - 4)], dtype=torch.float64)
    of_weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    records = [StepRecord(i, 0.1 * i, row, after, of_weights=of_weights if i else None) for i, row in enumerate(sums)]
    assert read_signals(records) == [read_signals([record])[0] for record in records]
    assert [signals.step for signals in read_signals(records)] == [0, 1, 2]
    assert [getattr(read_signals(records)[2], name) for name in WITHIN] == list(range(len(WITHIN)))
    assert [getattr(read_signals(records)[2], name) for name in OF_WEIGHTS] == of_weights.tolist()
    assert math.isnan(read_signals(records)[0].update_error)
    assert read_signals(records)[2].loss_scale == 512.0
    assert read_signals([]) == []


def test_signals_survive_json() -> None:
    """A checkpoint's row gives equal signals, nan and infinity included."""
    signals = [StepSignals(3, math.inf, input_mean=(0.1, 0.2, 0.3), applied=False), totals(5), totals(1)]
    rows = json.loads(json.dumps([asdict(one) for one in signals]))
    assert [StepSignals.from_dict(row) for row in rows] == signals

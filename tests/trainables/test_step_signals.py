"""The signals of a step are plain data."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.step_signals import StepSignals

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["trainables.detectors", "trainables.timeline", "infra.stopper"])
def test_judging_losses_loads_no_torch(module: str) -> None:
    """A process that only judges losses, as the driver of a sweep does, gets by without torch."""
    code = f"import sys, {module}; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr


@pytest.mark.parametrize(
    ("signals", "finite"),
    [
        (StepSignals(0, 1.0), True),
        (StepSignals(0, 1.0, grad_norm=3.0), True),
        (StepSignals(0, math.nan), False),
        (StepSignals(0, math.inf), False),
        (StepSignals(0, 1.0, grad_norm=math.inf), False),
        (StepSignals(0, 1.0, grad_norm=math.nan, applied=False), False),
    ],
)
def test_finite_is_about_loss_and_gradient(signals: StepSignals, *, finite: bool) -> None:
    """A gradient norm that nobody measured (nan) is no fault; a step that was not applied is one."""
    assert signals.finite is finite


def test_overflow_of_the_loss_scale_is_no_fault() -> None:
    """A step that only the fp16 scale made infinite counts as finite; one whose loss is nan doesn't."""
    assert StepSignals(0, 1.0, grad_norm=math.inf, applied=False, overflowed=True).finite
    assert not StepSignals(0, math.nan, grad_norm=math.inf, applied=False, overflowed=True).finite

"""Number formats of a step, and the loss scale that fp16 needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 2.0**16
"""torch.amp.GradScaler's own first scale, growth and patience."""
GROWTH, BACKOFF, PATIENCE = 2.0, 0.5, 2000
LEAST_SCALE = 1.0
"""A gradient that overflows at this scale is not the scale's fault."""


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """Autocast for the forward pass; none under fp32 and tf32."""
    return torch.autocast(device.type, AUTOCAST.get(amp), enabled=amp in AUTOCAST)


@contextmanager
def matrix_precision(amp: str, device: torch.device) -> Iterator[None]:
    """How a GPU multiplies float32 matrices, forward and backward: rounded to TF32 where asked, else in full."""
    if device.type != "cuda":
        yield
        return
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined] # made at import
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "tf32" if amp == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def unscale(gradients: list[Tensor], scale: Tensor) -> None:
    """Divide the gradients by a loss scale, [1], in place."""
    torch._foreach_mul_(gradients, scale.reciprocal().squeeze())


class LossScale:
    """A factor that keeps fp16 gradients from vanishing; halved at an overflow, doubled after 2,000 good steps.

    It is part of the train state; everything stays on the device (Micikevicius et al. 2018, section 3.2).
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((1,), FIRST_SCALE, device=device)
        self.good_steps = torch.zeros(1, dtype=torch.int32, device=device)

    def tensors(self) -> dict[str, Tensor]:
        """Its state by name, live."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def update(self, bad: Tensor) -> None:
        """Back off where `bad` (float32 0-dim) is 1; grow after enough good steps."""
        torch._amp_update_scale_(self.scale, self.good_steps, bad.reshape(1), GROWTH, BACKOFF, PATIENCE)

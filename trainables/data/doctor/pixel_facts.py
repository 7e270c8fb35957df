"""What the pixels of one image tell: moments, extremes, and a thumbnail by which near duplicates are found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

Channels = tuple[float, float, float]

THUMBNAIL_SIDE = 16
"""Side of the thumbnail, in pixels."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of R, G and B in brightness (ITU-R BT.601, as in JPEG)."""
DARK, BRIGHT = 2, 253
"""Levels up to which a value counts as black, and from which as white: JPEG's rounding moves both by two."""


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """Of one decoded image."""

    width: int
    height: int
    """In pixels, as stored."""
    mean: Channels
    std: Channels
    """Of each channel over the image, of pixels / 255."""
    low: int
    high: int
    """Least and greatest value of any channel, 0 to 255."""
    black_share: float
    white_share: float
    """Share of values that are black, and white."""
    grey: bool
    """All three channels are equal."""
    detail: float
    """Mean difference of neighbouring pixels over the spread of all: low where an image is blurred or was enlarged."""
    flat_end: float
    """Share of its rows, counted from the last one up, that are all of one colour, neither black nor white."""
    thumbnail: bytes
    """Brightness of the image scaled to THUMBNAIL_SIDE x THUMBNAIL_SIDE, one byte each."""


def pixel_facts(pixels: torch.Tensor) -> PixelFacts:
    """Measure an image: uint8 [3, height, width] in RGB."""
    values = pixels.numpy()
    height, width = values.shape[1:]
    flat = values.reshape(3, -1)
    scaled = flat.astype(np.float32) / np.float32(255)
    mean, std = scaled.mean(1, dtype=np.float64), scaled.std(1)
    return PixelFacts(
        width=width,
        height=height,
        mean=_three(mean),
        std=_three(std),
        low=int(flat.min()),
        high=int(flat.max()),
        black_share=float((flat <= DARK).mean()),
        white_share=float((flat >= BRIGHT).mean()),
        grey=bool((flat[0] == flat[1]).all() and (flat[1] == flat[2]).all()),
        detail=_detail(values[1]),
        flat_end=_flat_end(values),
        thumbnail=_thumbnail(pixels),
    )


def _three(values: NDArray[np.floating]) -> Channels:
    return float(values[0]), float(values[1]), float(values[2])


def _detail(green: NDArray[np.uint8]) -> float:
    """Of the green channel, which has most of the brightness; 0 for a constant image."""
    spread = float(green.std(dtype=np.float32))
    if spread == 0 or green.shape[1] < 2:
        return 0.0
    steps = np.diff(green.astype(np.int16), axis=1)
    return float(np.abs(steps).mean()) / spread


def _flat_end(values: NDArray[np.uint8]) -> float:
    last = values[:, -1, -1]
    if last.max() <= DARK or last.min() >= BRIGHT:
        return 0.0
    flat = (values == last[:, None, None]).all(axis=(0, 2))[::-1]
    return float(1.0 if flat.all() else flat.argmin() / len(flat))


def _thumbnail(pixels: torch.Tensor) -> bytes:
    small = functional.resize(pixels, [THUMBNAIL_SIDE, THUMBNAIL_SIDE], antialias=True).numpy()
    brightness: NDArray[np.uint8] = np.rint(np.tensordot(LUMA, small.astype(np.float32), 1)).astype(np.uint8)
    return brightness.tobytes()

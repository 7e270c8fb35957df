"""scikit-learn's handwritten digits as an image folder in colour: the data set that needs no download.

The 8x8 scans become 32x32 drawings in dark bluish ink on warm paper under a light of varying strength. The three
channels differ in mean and spread, so that a fault in one of them shows; the light varies widely between samples, so
that batches sorted by it shift the input's moments. Colours are drawn independently of the label.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.errors import DataError, complaint
from trainables.rng import generator

NUM_TRAIN = 1500
"""Training samples of the 1,797; the rest is val."""
SIDE = 32
"""Side of the stored images, in pixels."""

PAPER = (236.0, 198.0, 138.0)
"""Mean colour of the paper under full light, RGB in 0..255."""
INK = (34.0, 46.0, 86.0)
"""Mean colour of the ink under full light, RGB in 0..255."""
PAPER_JITTER = 14.0
INK_JITTER = 12.0
"""Half-widths of the uniform variation of each channel of a sample's paper and ink."""
LIGHT = (0.45, 1.0)
"""Range of the uniform strength of the light, which scales the whole image."""


def write_digits(cache_dir: Path) -> Path:
    """Return `cache_dir`/digits-v1 with train/ and val/, written on the first call (about two seconds).

    Written beside and renamed in one step: any number of processes may start at once, and a killed one leaves no half
    data set behind.

    Raises:
        DataError: `cache_dir` can't be written.

    """
    target = cache_dir / "digits-v1"
    if target.is_dir():
        return target
    partial = cache_dir / f"digits-v1.partial-{uuid.uuid4().hex}"
    try:
        _write_folders(partial)
        _publish(partial, target)
    except OSError as error:
        allowed = f"a cache folder that can be written ({error.strerror})"
        remedy = "set EPOCH14_CACHE to another folder"
        raise DataError(complaint("EPOCH14_CACHE", str(cache_dir), allowed, remedy)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def draw_digit(glyph: np.ndarray, sample_id: int) -> np.ndarray:
    """Draw one digit in this sample's colours.

    Args:
        glyph: the scan, float [8, 8] in 0..16.
        sample_id: its place in scikit-learn's data set; keys the colours, with nothing else.

    Returns:
        uint8 [32, 32, 3], RGB.

    """
    # Pillow resizes bytes in fixed-point arithmetic: the same pixels on every machine.
    small = Image.fromarray(np.rint(glyph * (255.0 / 16.0)).astype(np.uint8))
    coverage = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)[..., None] / 255.0
    rng = generator("digits-v1", "colour", sample_id)
    paper = np.array(PAPER) + rng.uniform(-PAPER_JITTER, PAPER_JITTER, size=3)
    ink = np.array(INK) + rng.uniform(-INK_JITTER, INK_JITTER, size=3)
    light = rng.uniform(*LIGHT)
    return np.rint(light * (paper + (ink - paper) * coverage)).clip(0, 255).astype(np.uint8)


def _write_folders(root: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = generator("digits-v1", "split").permutation(len(digits.target))
    for split, ids in (("train", order[:NUM_TRAIN]), ("val", order[NUM_TRAIN:])):
        for label in range(10):
            (root / split / str(label)).mkdir(parents=True)
        for sample_id in ids.tolist():
            image = Image.fromarray(draw_digit(digits.images[sample_id], sample_id))
            image.save(root / split / str(digits.target[sample_id]) / f"{sample_id:04d}.png")


def _publish(partial: Path, target: Path) -> None:
    """Rename `partial` to `target` unless another process was first."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise

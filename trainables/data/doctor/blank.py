"""Whether an image shows anything: blank ones, and those whose values were lost in a scaling."""

from __future__ import annotations

from trainables.data.doctor.pixel_facts import PixelFacts

BLANK_SHARE = 0.99
"""Share of black, or of white, values from which an image shows nothing: photos of clothing have 0.51 at most."""
BLANK_RANGE = 2
"""Levels between the least and the greatest value of an image that shows nothing: JPEG's rounding."""
SPECKS = 0.01
"""Mean level up to which a black image with some ones in it is blank, not scaled to 0..1."""


def is_blank(pixels: PixelFacts) -> bool:
    """Of one colour, or black or white but for a hundredth."""
    if is_unit_range(pixels):
        return False
    constant = pixels.high - pixels.low <= BLANK_RANGE or max(pixels.std) * 255 < 0.5
    return constant or max(pixels.black_share, pixels.white_share) >= BLANK_SHARE


def is_unit_range(pixels: PixelFacts) -> bool:
    """Only the levels 0 and 1: values of 0..1 that were saved as bytes."""
    return (pixels.low, pixels.high) == (0, 1) and max(pixels.mean) * 255 > SPECKS


def shows_something(pixels: PixelFacts | None) -> bool:
    """It decodes, and is neither of the two."""
    return pixels is not None and not is_blank(pixels) and not is_unit_range(pixels)

"""Whether one split is like the other with its channels reversed, or like its negative."""

from __future__ import annotations

from typing import Literal

import numpy as np

from trainables.data.doctor.pixel_facts import PixelFacts
from trainables.data.doctor.statistics import ENOUGH, Values, of_pixels
from trainables.data.doctor.survey import SplitFacts, Survey

Turn = Literal["", "reversed", "negative"]
TURNS: dict[Turn, tuple[int, int, int]] = {"": (1, 1, 1), "reversed": (1, -1, 1), "negative": (-1, -1, -1)}
"""What a turn does to the signs of an image's three tones."""
FAR = 6.0
"""Distance of two splits, in standard errors, from which a turn is sought: no random split comes near it."""
LEFT = 1 / 3
"""Part of that distance that a turn may leave."""


def turn_of(survey: Survey) -> Turn:
    """The turn that brings val/ near train/; empty where they are near as they are, or no turn does it."""
    train, val = _tones(survey.train), _tones(survey.val)
    if min(len(train), len(val)) < ENOUGH:
        return ""
    error = np.sqrt(train.var(0) / len(train) + val.var(0) / len(val)) + 1e-9
    apart = {turn: _length((val.mean(0) * np.array(signs) - train.mean(0)) / error) for turn, signs in TURNS.items()}
    best = min(apart, key=lambda turn: apart[turn])
    return best if apart[""] >= FAR and apart[best] <= LEFT * apart[""] else ""


def red_less_blue(part: SplitFacts) -> Values:
    """Excess of the mean of red over that of blue in each image, of pixels / 255: float64 [n]."""
    return of_pixels(part, lambda pixels: pixels.mean[0] - pixels.mean[2])


def _tones(part: SplitFacts) -> Values:
    """Brightness about the middle, red less blue, and green less both, of each image: float64 [n, 3]."""
    return np.stack([of_pixels(part, _middle), red_less_blue(part), of_pixels(part, _green)], axis=1)


def _middle(pixels: PixelFacts) -> float:
    return sum(pixels.mean) / 3 - 0.5


def _green(pixels: PixelFacts) -> float:
    return pixels.mean[1] - (pixels.mean[0] + pixels.mean[2]) / 2


def _length(vector: Values) -> float:
    return float(np.linalg.norm(vector))

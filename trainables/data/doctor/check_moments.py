"""What the declared normalisation makes of the pixels that are really there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainables.data.doctor.finding import Finding, Severity
from trainables.data.doctor.pixel_facts import Channels
from trainables.data.doctor.survey import SplitFacts, Survey
from trainables.data.normalize import IMAGENET_MEAN, IMAGENET_STD, build_normalization
from trainables.data_config import DataConfig

FAR_MEAN, FAR_FACTOR = 1.0, 2.0
"""Mean of a channel of the input, in its declared deviations, and factor of its deviation, that a declaration from
another data set may leave: a judgement; photos of clothing with ImageNet's numbers have 0.34 and 1.12."""
HOPELESS_FACTOR = 10.0
"""Factor of the input's scale from which a recipe's learning rate means nothing: a forgotten /255 makes 255."""
OWN_MEAN, OWN_FACTOR = 0.25, 1.25
"""The same for numbers taken from this very set: they should leave 0 and 1, and one batch's means scatter by 0.1."""


@dataclass(frozen=True)
class Moments:
    """Of each channel over all pixels of some images."""

    mean: Channels
    std: Channels


def check_moments(survey: Survey, data: DataConfig) -> Iterator[Finding]:
    """Findings `normalization` and `moments`."""
    stored = moments(survey.train)
    if stored is None:
        return
    if min(stored.std) > 0:
        yield from _declared(stored, data)
    summary = f"the training pixels / 255 have mean {_shown(stored.mean)} and std {_shown(stored.std)} "
    yield Finding("moments", "info", f"{summary}(ImageNet: {_shown(IMAGENET_MEAN)} and {_shown(IMAGENET_STD)})", "")


def moments(part: SplitFacts) -> Moments | None:
    """Of the stored pixels / 255, each pixel counted once, as `channel_statistics` counts; None without images."""
    shown = [one.pixels for one in part.decoded if one.pixels is not None]
    if not shown:
        return None
    weights = np.array([pixels.width * pixels.height for pixels in shown], dtype=np.float64)
    means, stds = (np.array([getattr(pixels, name) for pixels in shown]) for name in ("mean", "std"))
    mean = np.average(means, axis=0, weights=weights)
    square = np.average(stds**2 + means**2, axis=0, weights=weights)
    return Moments(_three(mean), _three(np.sqrt(np.maximum(square - mean**2, 0.0))))


def normalised(stored: Moments, data: DataConfig) -> Moments:
    """Moments of the model's input under the declared normalisation."""
    rule = build_normalization(data.normalization, stored.mean, stored.std)
    order = (2, 1, 0) if rule.reverse_channels else (0, 1, 2)
    mean = [(stored.mean[c] * 255 * rule.scale - rule.mean[i]) / rule.std[i] for i, c in enumerate(order)]
    std = [stored.std[c] * 255 * rule.scale / rule.std[i] for i, c in enumerate(order)]
    return Moments(_three(np.array(mean)), _three(np.array(std)))


def _declared(stored: Moments, data: DataConfig) -> Iterator[Finding]:
    found = normalised(stored, data)
    own = data.normalization != "imagenet"
    mean = max(map(abs, found.mean))
    factor = max(max(value, 1 / value) for value in found.std)
    severity: Severity = "info"
    if mean > (OWN_MEAN if own else FAR_MEAN) or factor > (OWN_FACTOR if own else FAR_FACTOR):
        severity = "error" if factor >= HOPELESS_FACTOR else "warning"
    if severity == "info" and math.isclose(factor, 1.0, abs_tol=1e-6) and mean < 1e-6:
        return
    summary = f"normalization {data.normalization!r} gives the model channels of mean {_shown(found.mean)} and std "
    remedy = "declare per_channel, which counts this set" if own else "declare per_channel, unless the weights need it"
    yield Finding("normalization", severity, f"{summary}{_shown(found.std)} instead of 0 and 1", remedy)


def _three(values: np.ndarray) -> Channels:
    return float(values[0]), float(values[1]), float(values[2])


def _shown(values: Channels) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"

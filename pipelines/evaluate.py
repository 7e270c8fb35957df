"""Evaluate a trained network by itself, as it will be served: its folder and a data set, no run and no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.errors import DataError, complaint

AT_ONCE = 256
"""Images that are decoded and evaluated together."""


@dataclass(frozen=True, eq=False)
class Scores:
    """How a network does on val/."""

    top1: float
    """Share that is right at first."""
    top5: float
    """Share that is right among the five likeliest classes, or among all where there are fewer."""
    loss: float
    """Mean cross-entropy, in nats."""
    images: int
    """That decode; the others are in no score."""
    classes: tuple[str, ...]
    confusion: np.ndarray
    """Images by true class and by likeliest class, int64 [classes, classes]."""


def evaluate_network(folder: Path, data: str) -> Scores:
    """Score the network that `save_network` wrote into `folder` on val/ of a data set, on the CPU, in float32.

    Raises DataError where the data set can't be read, or has other classes than the network.
    """
    from trainables.data.images import ImageSource
    from trainables.data.index import list_images
    from trainables.data.prefetch import Prefetcher
    from trainables.data.quarantine import Quarantine
    from trainables.data.spacing import usable_threads
    from trainables.serve import load_network

    network, listing = load_network(folder), list_images(data)
    if listing.classes != network.classes:
        allowed = f"the {len(network.classes)} classes that the network was trained on, by the same names"
        raise DataError(complaint("data.path", data, allowed, "name the data set of the training"))
    val = listing.val
    # The training had its limit of images that don't decode; here they are told by the number that was scored.
    quarantine = Quarantine(val, limit=len(val))
    source = ImageSource(val, network.side, "none", seed=0, eval_crop_ratio=network.crop_ratio, quarantine=quarantine)
    # The source has cut the middle out already.
    squares = replace(network, crop_ratio=1.0)
    parts = np.array_split(np.arange(len(val)), max(1, -(-len(val) // AT_ONCE)))
    logits, labels = [], []
    with Prefetcher(lambda i: source.fetch_sound(parts[i]), usable_threads(), stop_step=len(parts)) as decoded:
        for i in range(len(parts)):
            images, kept = decoded.get(i)
            logits.append(squares.predict(images.numpy()))
            labels.append(val.labels[kept])
    return score(np.concatenate(logits), np.concatenate(labels), network.classes)


def score(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Scores:
    """Scores of `logits`, float32 [n, classes], against `labels`, int64 [n]; raises DataError where there are none."""
    if not len(labels):
        raise DataError(complaint("val/", 0, "at least one image that decodes", "run `epoch14 doctor` on the data"))
    from torch import from_numpy
    from torch.nn import functional as F

    loss = F.cross_entropy(from_numpy(logits), from_numpy(labels)).item()
    ranked = from_numpy(logits).topk(min(5, len(classes)), dim=1).indices.numpy()
    hits = ranked == labels[:, None]
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (labels, ranked[:, 0]), 1)
    return Scores(float(hits[:, 0].mean()), float(hits.any(axis=1).mean()), loss, len(labels), classes, confusion)

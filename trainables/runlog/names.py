"""What a log's columns are called, and what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
EVALUATED = {"val", "valid", "validation", "eval", "test", "dev", "holdout"}
TRAINED = {"train", "training", "tr"}
PLAIN = {"step", "steps", "epoch", "batch", "iter", "avg", "average", "mean", "running", "smoothed", "total", "global"}
PLAIN |= {"metric", "metrics", "loss", "losses", "scalars", "model", "log", "trainer", "score", "optim", "optimizer"}
PLAIN |= {"unclipped", "preclip", "before", "clip", "l", "2", "all", "sgd", "adam", "w", "lion", "lamb"}
PLAIN |= {"lars", "rmsprop", "pg", "group", "param", "0", "1", "nats", "performance", "raw"}
"""Words that leave a name what it is."""
QUANTITIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss_scale", ("loss scale", "grad scale", "scaler scale", "amp scale", "scaler", "scale", "lossscale")),
    ("grad_norm", ("grad norm", "gradient norm", "gnorm", "gradnorm", "grad global norm", "gradients norm")),
    ("update_ratio", ("update ratio", "update to weight ratio", "update weight ratio", "update param ratio")),
    ("learning_rate", ("learning rate", "lr", "learningrate")),
    ("accuracy", ("accuracy top 1", "acc top 1", "accuracy", "acc", "top 1", "acc 1", "prec 1", "precision 1")),
    ("accuracy", ("categorical accuracy", "sparse categorical accuracy", "binary accuracy", "multiclass accuracy")),
    ("loss", ("cross entropy", "crossentropy", "ce", "nll", "xent", "cost", "loss", "losses")),
)
"""Quantity, and word sequences that name it, the most specific first."""
STEPS: tuple[str, ...] = ("trainer global step", "global step", "train global step", "step", "iteration", "iter")
STEPS += ("iterations", "it", "steps", "num steps", "train step", "n iter", "num updates", "update")
STEPS += ("optimizer step", "batch")
EPOCHS = ("epoch", "epochs", "train epoch", "epoch num")
RUNS = ("run", "run id", "run name", "trial", "trial id", "experiment", "run uuid")
TAGS = ("tag", "metric", "key", "metric name", "variable", "series")
VALUES = ("value", "metric value", "val", "scalar")
TIMES = ("wall time", "timestamp", "time", "walltime")
CHANNEL = re.compile(r"input[_./](mean|std)[_./]([rgb0-2])$", re.IGNORECASE)
ALLOWED = (
    *("step", "loss", "learning_rate", "grad_norm", "update_ratio", "loss_scale", "accuracy", "val_loss"),
    *("val_accuracy", "run", "tag", "value", "time"),
)
"""Names on the left of `--column NAME=COLUMN`."""


@dataclass(frozen=True)
class Meaning:
    """What a column's name says."""

    quantity: str
    distance: int
    """Words of the name that say something else; what has any is taken only by hand, but for none."""


def meaning(name: str) -> Meaning | None:
    """The quantity that `name` names, `val_` before one of an evaluation; None: none that is known here.

    >>> meaning("train/loss_epoch").quantity, meaning("Valid Acc@1").quantity, meaning("lr-SGD").quantity
    ('loss', 'val_accuracy', 'learning_rate')
    >>> meaning("perplexity")
    """
    if channel := CHANNEL.search(name):
        place = "rgb".find(channel.group(2).lower())
        return Meaning(f"input_{channel.group(1).lower()}_{place if place >= 0 else channel.group(2)}", 0)
    words = words_of(name)
    evaluated = any(word in EVALUATED for word in words)
    rest = [word for word in words if word not in EVALUATED | TRAINED]
    for quantity, spellings in QUANTITIES:
        for spelling in sorted(spellings, key=len, reverse=True):
            left = without(rest, spelling.split())
            if left is not None:
                extra = [word for word in left if word not in PLAIN]
                split = evaluated and quantity in ("loss", "accuracy")
                return Meaning(f"val_{quantity}" if split else quantity, len(extra))
    return None


def words_of(name: str) -> list[str]:
    """The words of a column's name, in lower case: `trainLoss_epoch` is train, loss, epoch."""
    return [word.lower() for word in WORDS.findall(name)]


def without(words: list[str], wanted: list[str]) -> list[str] | None:
    """`words` without the sequence `wanted`; None where it isn't in it."""
    for start in range(len(words) - len(wanted) + 1):
        if words[start : start + len(wanted)] == wanted:
            return words[:start] + words[start + len(wanted) :]
    return None


def named(columns: Iterable[str], spellings: tuple[str, ...]) -> str | None:
    """The column that is spelled like one of `spellings`, the first of these that is there."""
    spoken = {" ".join(words_of(name)): name for name in reversed(list(columns))}
    return next((spoken[spelling] for spelling in spellings if spelling in spoken), None)


def choose(points: Mapping[str, int]) -> dict[str, str]:
    """Quantity -> the column that holds it: of several the one with most of its `points`, then the first.

    Columns whose names say more than the quantity (`loss_bbox`) are left to `--column`.
    """
    best: dict[str, str] = {}
    for name, count in points.items():
        found = meaning(name)
        if found is None or found.distance:
            continue
        if found.quantity not in best or count > points[best[found.quantity]]:
            best[found.quantity] = name
    return best

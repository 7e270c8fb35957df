"""What a row counts as: detected, harmful, right."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.benchmarks.diagnosis.results import Row
from tests.benchmarks.diagnosis.statistics import interval

UNEXPLAINED = "unexplained"
POINTS = 0.02
"""Top-1 that a changed outcome differs by at least: the interval over the seeds lies beyond it."""

PER_SAMPLE = frozenset({"corrupt_images", "outlier_samples", "label_noise", "non_finite_input"})
"""Causes whose culprits are samples; where all are bad there is none to single out."""

GROUPS: dict[str, tuple[str, ...]] = {
    "learning_rate": (
        *("lr_too_high", "edge_of_stability", "warmup_missing", "lr_jump", "lr_not_scaled", "lr_too_low"),
        *("adaptive_state_lag", "weight_decay", "optimizer_state_lost"),
    ),
    "normalization": (
        *("bn_small_batch", "bn_momentum", "bn_stats_corrupt", "bn_frozen", "bn_gamma_init", "norm_eps"),
        *("bn_low_precision", "batch_shift"),
    ),
    "data": (
        *("batch_shift", "poisoned_batch", "label_shuffle", "label_offset", "label_noise", "corrupt_images"),
        "outlier_samples",
    ),
    "preprocessing": (
        *("wrong_mean_std", "channel_swap", "scale_255", "train_eval_mismatch", "corrupt_images", "outlier_samples"),
        "non_finite_input",
    ),
    "numerics": ("fp16_overflow", "fp16_underflow", "silent_corruption", "loss_numerics"),
    "code": ("missing_zero_grad", "double_step", "accumulation_unscaled", "rank_desync", "metric_bug"),
}
"""Groups that a cause may be put in: samples and their order lie on a border."""


def is_control(row: Row) -> bool:
    """Nothing was wrong with the run."""
    return bool(row["where"] == "control")


def detected(row: Row) -> bool:
    """A symptom, not before the fault."""
    return bool(row["symptom"]) and int(row["delay"]) >= 0


def non_finite(row: Row) -> bool:
    """The run ends in losses that are not finite."""
    return not math.isfinite(float(row["losses"][-1]))


def cause_of(row: Row) -> str:
    """What the run was taken for; empty: it was not diagnosed."""
    return row["verdict"]["cause"] if row.get("verdict") else ""


def right_cause(row: Row) -> bool:
    """The verdict is one of those that the catalogue of cases calls right."""
    return cause_of(row) in row["right"]


def right_group(row: Row) -> bool:
    """The verdict is in a group of a right cause."""
    if right_cause(row):
        return True
    groups = [group for group, causes in GROUPS.items() if set(row["right"]) & set(causes)]
    return bool(row.get("verdict")) and row["verdict"]["group"] in groups


def right_layer(row: Row) -> bool:
    """The verdict names the parameter that the fault hit."""
    return bool(row["verdict"]["layer"] == row["layer"])


def right_rank(row: Row) -> bool:
    """The verdict names the rank that the fault acted on."""
    return bool(row["verdict"]["rank"] == row["rank"])


def abstained(row: Row) -> bool:
    """An honest 'unexplained'."""
    return cause_of(row) == UNEXPLAINED


def harmful(rows: Iterable[Row]) -> dict[tuple[str, str], bool]:
    """(base, fault) -> whether it changes the outcome: paired over the seeds, the interval beyond `POINTS` of top-1.

    Or whether its losses end non-finite. Of fewer than two seeds nothing is said.
    """
    pairs: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        pairs[row["base"], row["fault"]].append(row)
    return {key: changes_outcome(mine) for key, mine in pairs.items() if len(mine) > 1}


def changes_outcome(rows: Sequence[Row]) -> bool:
    """As `harmful`, of one pair."""
    low, high = interval([row["healthy_top1"] - row["top1"] for row in rows])
    return any(map(non_finite, rows)) or low > POINTS or high < -POINTS


def culprit_counts(row: Row) -> tuple[int, int, int]:
    """(named and bad, named, bad) samples of a row."""
    named, bad = set(row["verdict"]["culprits"]), set(row["culprits"])
    return len(named & bad), len(named), len(bad)

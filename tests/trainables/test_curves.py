"""The detector on real public training logs (../shared/data/curves): it finds lasting events and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trainables.config import DetectorConfig
from trainables.detectors import Detector, Symptom
from trainables.signals import StepSignals

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def curves(shared_data: Path) -> list[tuple[str, Floats]]:
    """(name, losses) of each run; a file of a run that was started anew holds more than one."""
    path = shared_data / "curves" / "train.parquet"
    if not path.is_file():
        pytest.skip("the real curves (../shared/data/curves beside the repository) are absent")
    table = pq.read_table(path, columns=["run", "step", "loss"])
    steps = table["step"].to_numpy()
    names = table["run"].combine_chunks().dictionary_encode()
    codes = names.indices.to_numpy()
    cuts = np.flatnonzero((np.diff(codes) != 0) | (np.diff(steps) <= 0)) + 1
    starts = [0, *cuts.tolist()]
    loss = table["loss"].to_numpy().astype(np.float64)
    return [
        (str(names.dictionary[int(codes[start])]), part)
        for start, part in zip(starts, np.split(loss, cuts), strict=True)
    ]


def first_symptom(losses: Floats, num_classes: int | None = None) -> Symptom | None:
    """What the detector with its default config sees first."""
    detector = Detector(DetectorConfig(), num_classes)
    updates = (detector.update(StepSignals(k, float(loss))) for k, loss in enumerate(losses))
    return next((symptom for symptom in updates if symptom), None)


def lasting_events(losses: Floats) -> list[int]:
    """Points more than 1 nat above the median of the 50 before, 4 or more in a row, after the first tenth."""
    if len(losses) <= 50:
        return []
    before = np.median(sliding_window_view(losses, 50)[:-1], axis=1)
    high = losses[50:] > before + 1
    high[: max(0, len(losses) // 10 - 50)] = False
    return [50 + k for k in range(len(high) - 3) if high[k : k + 4].all()]


def test_language_models_with_bad_batches_are_quiet(curves: list[tuple[str, Floats]]) -> None:
    """Ten healthy runs of modded-nanogpt have some 80 single bad batches in 86,511 steps: no alarm, at two settings."""
    runs = [losses for name, losses in curves if name.startswith("nanogpt/")]
    assert len(runs) == 10
    assert sum(map(len, runs)) == 86_511
    assert [first_symptom(losses) for losses in runs] == [None] * 10


def test_lasting_events_of_resnets_are_found(curves: list[tuple[str, Floats]]) -> None:
    """ResNet-50 on ImageNet, a point each 100 to 250 steps: all 8 runs with a lasting event are caught, at its first
    point or before. Of the 90 others one alarms, at a real jump in its first tenth.
    """
    runs = [losses for name, losses in curves if name.startswith("algoperf/")]
    assert len(runs) == 98
    seen = [(first_symptom(losses), lasting_events(losses)) for losses in runs]
    eventful = [(symptom, events[0]) for symptom, events in seen if events]
    assert len(eventful) == 8
    for symptom, event in eventful:
        assert symptom is not None
        assert symptom.kind == "spike"
        assert symptom.onset <= event + 1
    assert sum(symptom is not None for symptom, events in seen if not events) <= 2


def test_a_huge_start_that_falls_is_quiet(curves: list[tuple[str, Floats]]) -> None:
    """Runs whose first loss is several times chance, because of large initial scales, and which then learn, are
    healthy also where the number of classes is known.
    """
    runs = [
        losses
        for name, losses in curves
        if name.startswith("algoperf/") and losses[:20].max() > 1.5 * math.log(1000) and not lasting_events(losses)
    ]
    assert len(runs) >= 8
    assert [symptom.detail for losses in runs if (symptom := first_symptom(losses[:200], 1000))] == []

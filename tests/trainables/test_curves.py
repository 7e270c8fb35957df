"""The detector on real public training logs (../shared/data/curves), against events that were labelled by eye before it
ran on them. The whole table, with published rules beside it: `make bench-curves`.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from trainables.config import DetectorConfig
from trainables.detectors import Detector
from trainables.step_signals import StepSignals
from trainables.timeline import Event, attempts, find_symptoms

Logs = dict[str, list[dict[str, float]]]
LABELS = Path(__file__).parents[1] / "data" / "curves_events.csv"


@pytest.fixture(scope="module")
def logs(shared_data: Path) -> Logs:
    """Rows of each run."""
    path = shared_data / "curves" / "train.parquet"
    if not path.is_file():
        pytest.skip("the real curves (../shared/data/curves beside the repository) are absent")
    rows: Logs = {}
    for row in pq.read_table(path, columns=["run", "step", "loss"]).to_pylist():
        rows.setdefault(row.pop("run"), []).append(row)
    return rows


def labelled(*kinds: str) -> dict[str, list[tuple[int, int]]]:
    """First and last step of each stretch of these kinds, by run; (0, 0) of a quiet run."""
    found: dict[str, list[tuple[int, int]]] = {}
    with LABELS.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] in kinds:
                found.setdefault(row["run"], []).append((int(row["first_step"] or 0), int(row["last_step"] or 0)))
    return found


def missed(events: list[Event], stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches in which no event begins."""
    return [(first, last) for first, last in stretches if not any(first <= e.step <= last for e in events)]


def test_labels_fit_the_logs(logs: Logs) -> None:
    """Each run has labels, and each stretch lies within its run."""
    assert set(labelled("quiet", "spike", "collapse", "brief")) == set(logs)
    for name, stretches in labelled("spike", "collapse", "brief").items():
        assert all(first <= last <= logs[name][-1]["step"] for first, last in stretches)


def test_language_models_with_bad_batches_are_quiet(logs: Logs) -> None:
    """Four of the ten healthy runs of modded-nanogpt, with single bad batches: no alarm."""
    runs = sorted((rows for name, rows in logs.items() if name.startswith("nanogpt/")), key=len)
    assert len(runs) == 10
    assert [find_symptoms(rows) for rows in runs[:4]] == [[]] * 4


@pytest.mark.parametrize("num_classes", [1000, None])
def test_events_of_resnets_are_found_and_nothing_else(logs: Logs, num_classes: int | None) -> None:
    """Two runs with 25 labelled events: all but one of them, and nothing outside the labelled stretches."""
    events, brief = labelled("spike", "collapse"), labelled("brief")
    names = [
        "algoperf/self_tuning/sinv6/study_1/imagenet_resnet_jax/trial_1",
        "algoperf/self_tuning/nadamw_sequential/study_0/imagenet_resnet_large_bn_init_jax/trial_1",
    ]
    misses = 0
    for name in names:
        found = find_symptoms(logs[name], num_classes=num_classes)
        stretches = [*events[name], *brief.get(name, [])]
        assert [e for e in found if not any(first - 200 <= e.step <= last for first, last in stretches)] == []
        misses += len(missed(found, events[name]))
    assert sum(len(events[name]) for name in names) == 20
    assert misses <= 1


def test_quiet_resnets_are_quiet(logs: Logs) -> None:
    """Every eighth quiet run, restarted logs among them."""
    quiet = [name for name in sorted(labelled("quiet")) if name.startswith("algoperf/")]
    assert len(quiet) == 78
    assert any(len(attempts(logs[name])) == 2 for name in quiet[::8])
    assert [event for name in quiet[::8] for event in find_symptoms(logs[name], num_classes=1000)] == []


def test_the_detector_of_training_alarms_at_the_first_event(logs: Logs) -> None:
    """A finished log is judged by the thresholds of training: its first event is where that would have stopped."""
    name = "algoperf/self_tuning/sinv6/study_0/imagenet_resnet_jax/trial_1"
    detector = Detector(DetectorConfig(), 1000)
    rows = (StepSignals(int(row["step"]), row["loss"]) for row in logs[name])
    symptom = next(symptom for row in rows if (symptom := detector.update(row)))
    first = find_symptoms(logs[name], num_classes=1000)[0]
    assert (symptom.kind, symptom.onset, symptom.step) == (first.kind, first.step, first.confirmed_step)
    assert symptom.onset == 230_200


def test_a_huge_start_that_falls_is_quiet(logs: Logs) -> None:
    """Runs whose first loss is several times chance, because of large initial scales, and which then learn."""
    quiet = [rows[:200] for name, rows in logs.items() if name in labelled("quiet") and "algoperf/" in name]
    runs = [rows for rows in quiet if rows[0]["loss"] > 1.5 * math.log(1000)]
    assert len(runs) >= 8
    sick = [event.detail for rows in runs[::4] for event in find_symptoms(rows, num_classes=1000)]
    assert sick == []

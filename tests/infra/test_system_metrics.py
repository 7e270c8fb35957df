"""How busy a trial's machine is, among what it reports."""

from __future__ import annotations

from typing import Any

from infra.system_metrics import SystemSampler, with_system_metrics


def test_a_sample_is_this_machine_by_mlflows_names() -> None:
    """CPU and memory are shares of it, under the names that MLflow's page of system metrics knows."""
    values = SystemSampler(60).read()
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] <= 100
    assert values["system/system_memory_usage_megabytes"] > 1
    assert all(name.startswith("system/") for name in values)


def test_samples_are_rare() -> None:
    """The first report has one; within the interval no other has."""
    rows: list[dict[str, Any]] = []
    report = with_system_metrics(rows.append, 3600)
    for step in range(3):
        report({"step": step})
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [bool(row["system"]) for row in rows] == [True, False, False]


def test_none_leaves_the_report_alone() -> None:
    """Without an interval nothing is sampled, and no row changes."""
    rows: list[dict[str, Any]] = []
    with_system_metrics(rows.append, None)({"step": 0})
    assert rows == [{"step": 0}]

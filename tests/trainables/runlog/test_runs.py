"""Tables of every layout become runs whose points are in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainables.errors import ConfigError, DataError
from trainables.runlog.runs import RunLog, runs_of
from trainables.runlog.table import table_of_rows
from trainables.runlog.trajectory import trajectories


def runs(rows: list[dict[str, Any]], **by_hand: str) -> list[RunLog]:
    """The runs of rows."""
    return runs_of(table_of_rows(rows), by_hand, "log")


def test_wide_rows_of_several_runs_are_parted() -> None:
    """A `run` column, of text or of numbers, holds several runs, their rows mixed or not."""
    rows = [{"run": run, "step": step, "loss": step + run} for step in range(3) for run in (1, 2)]
    first, second = runs(rows)
    assert (first.name, second.name) == ("1", "2")
    assert second.points["loss"].values.tolist() == [2.0, 3.0, 4.0]


def test_long_rows_are_pivoted() -> None:
    """(step, tag, value) rows hold each quantity in the order of steps, tag by tag or mixed."""
    tags = {"train/loss": 2.0, "lr": 0.1, "val/acc1": 50.0}
    by_tag = [{"step": step, "tag": tag, "value": value} for tag, value in tags.items() for step in range(4)]
    (log,) = runs(by_tag)
    assert log.columns == {"loss": "train/loss", "learning_rate": "lr", "val_accuracy": "val/acc1"}
    (part,) = trajectories(log)
    assert part.steps.tolist() == [0, 1, 2, 3]
    assert part.evaluations["val_accuracy"].tolist() == [0.5] * 4


def test_long_rows_of_one_unnamed_tag_want_a_name() -> None:
    """TensorBoard's own CSV says `Wall time, Step, Value`: the value is the loss if that is said."""
    rows = [{"Wall time": 9.0 + step, "Step": step, "Value": 1.0} for step in range(3)]
    with pytest.raises(DataError, match="--column loss=COLUMN"):
        runs(rows)
    (log,) = runs(rows, loss="Value")
    assert log.points["loss"].steps.tolist() == [0, 1, 2]


def test_unordered_rows_are_sorted_and_doubles_averaged() -> None:
    """Rows in any order give the curve in the order of steps; several rows a step their mean."""
    order = np.random.default_rng(0).permutation(200)
    rows = [{"step": int(k) // 2, "loss": float(k)} for k in order]
    (log,) = runs(rows)
    assert log.points["loss"].steps.tolist() == list(range(100))
    assert log.points["loss"].values.tolist() == [2 * k + 0.5 for k in range(100)]


def test_a_restart_goes_on_and_a_new_start_is_a_part_of_its_own() -> None:
    """A step that goes back to a checkpoint is a restart of the same part; one that goes back to 0 begins a new one."""
    steps = [*range(100), *range(80, 150)]
    (log,) = runs([{"step": step, "loss": 1.0} for step in steps])
    (part,) = trajectories(log)
    assert part.steps.tolist() == steps
    assert part.resumes == (100,)
    (log,) = runs([{"step": step, "loss": 1.0, "lr": 0.1} for step in [*range(100), *range(60)]])
    assert [len(part.steps) for part in trajectories(log)] == [100, 60]


def test_a_hole_counts_as_a_restart() -> None:
    """Twenty times the usual distance between two points is a hole."""
    steps = [*range(0, 1000, 10), *range(1500, 2000, 10)]
    (log,) = runs([{"step": step, "loss": 1.0} for step in steps])
    assert trajectories(log)[0].resumes == (100,)


def test_steps_that_begin_anew_each_epoch_are_counted_through() -> None:
    """`epoch, step` with the step inside the epoch is one rising count."""
    rows = [{"epoch": epoch, "step": step, "loss": 1.0} for epoch in range(3) for step in range(100)]
    (log,) = runs(rows)
    assert log.points["loss"].steps.tolist() == list(range(300))


def test_other_quantities_are_known_where_they_were_logged_before() -> None:
    """A rate that is logged each 10 steps holds until the next; before the first it is unknown."""
    rows: list[dict[str, Any]] = [{"step": step, "loss": 1.0} for step in range(30)]
    rows += [{"step": 5, "lr": 0.1}, {"step": 20, "lr": 0.2}]
    (log,) = runs(rows)
    (part,) = trajectories(log)
    rates = part.others["learning_rate"]
    assert np.isnan(rates[:5]).all()
    assert rates[5:].tolist() == [0.1] * 15 + [0.2] * 10


def test_rows_without_steps_are_counted() -> None:
    """No column of steps, or one with fractions: rows are counted, and it is said."""
    (log,) = runs([{"loss": 1.0}] * 3)
    assert log.points["loss"].steps.tolist() == [0, 1, 2]
    assert "rows are counted" in log.notes[0]
    (log,) = runs([{"epoch": 0.5 * k, "loss": 1.0} for k in range(4)])
    assert log.points["loss"].steps.tolist() == [0, 1, 2, 3]


def test_only_an_evaluations_loss_stands_in() -> None:
    """Without a training loss that of the evaluations is used, and it is said."""
    (log,) = runs([{"step": step, "val_loss": 1.0} for step in range(3)])
    assert log.columns["loss"] == "val_loss"
    assert "no training loss" in log.notes[0]


def test_no_loss_names_what_was_found() -> None:
    """The error lists the columns and the option that helps."""
    with pytest.raises(DataError, match=r"step, perplexity.*--column loss=COLUMN"):
        runs([{"step": 1, "perplexity": 3.0}])
    (log,) = runs([{"step": 1, "perplexity": 3.0}], loss="perplexity")
    assert log.points["loss"].values.tolist() == [3.0]


def test_a_wrong_name_by_hand_is_refused() -> None:
    """A column that isn't there, and a quantity that isn't known."""
    with pytest.raises(ConfigError, match="'los' is not allowed"):
        runs([{"step": 1, "loss": 3.0}], loss="los")
    with pytest.raises(ConfigError, match="--column"):
        runs([{"step": 1, "loss": 3.0}], lossy="loss")

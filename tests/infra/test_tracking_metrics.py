"""The metrics of an MLflow run, from a real server and from a file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from mlflow.entities import Metric

from infra.tracking_metrics import read_run, run_id_of
from trainables.errors import ConfigError, DataError, TrackingError
from trainables.runlog.runs import runs_of

if TYPE_CHECKING:
    from tests.infra.conftest import Store


def loss(step: int) -> float:
    """A loss that goes off at step 30."""
    return math.inf if step == 30 else 1.0 / (1 + step)


def test_a_trials_metrics_are_read_by_any_of_its_names(store: Store) -> None:
    """Run id, runs:/ID and trial id give the run's loss, rate and input moments; what isn't finite is kept as nan."""
    sweep = store.sweep()
    trial = sweep.start()
    sweep.report(trial, 0, 60, loss)
    sweep.complete(trial)
    assert sweep.tracker.finish([]) is None
    run = store.trial()
    for word in (run.info.run_id, f"runs:/{run.info.run_id}", "a1b2c_00000"):
        table = read_run(store.uri, word)
        (log,) = runs_of(table, {}, word)
        assert log.name == run.info.run_name
        assert log.points["loss"].steps.tolist() == list(range(60))
        assert math.isnan(log.points["loss"].values[30])
        assert {"learning_rate", "input_mean_0", "input_mean_2"} <= log.points.keys()
        assert "images_per_s" not in log.columns.values()


def test_a_long_run_comes_whole(store: Store) -> None:
    """More points than one answer holds (25,000) are all there."""
    run = store.client.create_run(store.client.create_experiment("long"))
    for start in range(0, 26_000, 1000):
        batch = [Metric("train/loss", 1.0, step, step) for step in range(start, start + 1000)]
        store.client.log_batch(run.info.run_id, metrics=batch)
    (log,) = runs_of(read_run(store.uri, run.info.run_id), {}, "run")
    assert log.points["loss"].steps.tolist() == list(range(26_000))


def test_what_is_no_run_with_metrics_is_said(store: Store) -> None:
    """An unknown id, a run without metrics, a store that isn't there: one line each."""
    with pytest.raises(ConfigError, match="the id of a run in"):
        read_run(store.uri, "0" * 32)
    run = store.client.create_run(store.client.create_experiment("empty"))
    with pytest.raises(DataError, match="this one has none"):
        read_run(store.uri, run.info.run_id)
    with pytest.raises(TrackingError):
        read_run(f"sqlite:///{store.storage}/nothing/mlflow.db", run.info.run_id)


def test_metrics_without_a_loss_are_named_by_the_error(local: Store) -> None:
    """The error lists the run's metrics, and a name by hand helps."""
    run = local.client.create_run(local.client.create_experiment("other"))
    local.client.log_batch(run.info.run_id, metrics=[Metric("perplexity", 3.0, 1, step) for step in range(5)])
    with pytest.raises(DataError, match="perplexity"):
        runs_of(read_run(local.uri, run.info.run_id), {}, "run")
    table = read_run(local.uri, run.info.run_id, ("perplexity",))
    (log,) = runs_of(table, {"loss": "perplexity"}, "run")
    assert log.points["loss"].values.tolist() == [3.0] * 5


@pytest.mark.parametrize(
    ("word", "run_id"), [("runs:/abc", "abc"), ("0" * 32, "0" * 32), ("a1b2c_00000", None), ("log.csv", None)]
)
def test_what_names_a_run(word: str, run_id: str | None) -> None:
    """`runs:/ID` and 32 hexadecimal digits do."""
    assert run_id_of(word) == run_id

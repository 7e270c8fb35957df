"""Every run of a sweep in a real store: SQLite, and a server."""

from __future__ import annotations

import json
import math
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from mlflow.entities import ViewType
from ray.tune.experiment import Trial

from infra.tracking_callback import TrialTracker
from infra.tracking_search import run_place
from infra.tracking_values import MAX_TAG_CHARS
from tests.infra.conftest import POINT
from trainables.errors import TrackingError
from trainables.speed import SPEEDS

if TYPE_CHECKING:
    from tests.infra.conftest import Store


@pytest.fixture
def unchanged_globals() -> Iterator[None]:
    """MLflow's global state is as it was before the test."""
    uri = mlflow.get_tracking_uri()
    yield
    assert mlflow.get_tracking_uri() == uri
    assert mlflow.active_run() is None


@pytest.mark.usefixtures("unchanged_globals")
def test_a_healthy_trial_is_recorded_whole(store: Store, tmp_path: Path) -> None:
    """A long trial's run hangs below the sweep's, with its params, every one of 1,500 steps once, and its end."""
    sweep = store.sweep()
    tracker = sweep.tracker
    tracker.setup()
    trial = sweep.start()
    sweep.report(trial, 0, 1500, best_val_top1=0.5)
    sweep.report(trial, 1500, 1510, best_val_top1=0.75, phase="finished")
    sweep.complete(trial)
    tracker.on_experiment_end(sweep.trials)
    table = [
        {"trial_id": trial.trial_id, "name": "a|b", "params": {"optim.lr": 3.0}, "best_val_top1": 0.75, "symptom": ""}
    ]
    assert tracker.finish(table) is None

    parent, child = store.runs()
    assert parent.info.run_id == tracker.parent_run_id == child.data.tags["mlflow.parentRunId"]
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.info.run_name == "resnet18 gn b32 cosine lr3"
    assert child.data.tags["diagnosis.symptom"] == "none"
    assert child.data.params.items() >= {"optim.lr": "3.0", "model.norm": "gn", "max_steps": "60"}.items()
    assert store.losses(child) == [(k, 1.0 / (1 + k)) for k in range(1510)]
    assert len(store.losses(child, "input_mean.2")) == 1510
    assert child.data.metrics["best_val_top1"] == 0.75
    assert parent.data.metrics["num_trials"] == 1
    assert b"space:" in store.artifact(parent, "sweep.yaml", tmp_path / "parent")
    assert b"a1b2c_00000" in store.artifact(parent, "summary.csv", tmp_path / "parent")
    assert "a\\|b" in parent.data.tags["mlflow.note.content"]


def test_images_that_do_not_decode_are_counted_and_listed(store: Store, tmp_path: Path) -> None:
    """A metric that grows with their number, and the files as an artifact."""
    sweep = store.sweep()
    trial = sweep.start()
    sweep.report(trial, 0, 10, quarantined=[])
    sweep.report(trial, 10, 20, quarantined=["/data/train/cat/1.jpg"])
    sweep.report(trial, 20, 30, quarantined=["/data/train/cat/1.jpg"])
    sweep.report(trial, 30, 40, quarantined=["/data/train/cat/1.jpg", "/data/val/dog/2.jpg"], phase="finished")
    sweep.complete(trial)
    sweep.tracker.on_experiment_end(sweep.trials)

    child = store.trial()
    assert store.losses(child, "quarantined") == [(19, 1.0), (39, 2.0)]
    assert store.artifact(child, "quarantined.txt", tmp_path) == b"/data/train/cat/1.jpg\n/data/val/dog/2.jpg\n"


def test_axes_that_change_together_are_recorded(store: Store) -> None:
    """MLflow takes no + in a name of a param; the sweep begins all the same."""
    space = {"optim.lr+seed": [{"optim.lr": 0.1, "seed": 1}]}
    tracker = TrialTracker(store.uri, store.experiment, "joined", {"trial": {}, "space": space})
    tracker.setup()
    assert tracker.finish([]) is None
    (parent,) = store.runs()
    assert parent.data.params["space.optim.lr_seed.0.optim.lr"] == "0.1"


def test_the_speeds_tell_data_from_step(store: Store) -> None:
    """End to end, the loader's and the step's, once a report."""
    sweep = store.sweep()
    trial = sweep.start()
    sweep.report(trial, 0, 10, images_per_s=90.0, loader_images_per_s=100.0, step_images_per_s=900.0)
    sweep.complete(trial)
    sweep.tracker.on_experiment_end(sweep.trials)
    found = store.trial().data.metrics
    assert [found[key] for key in SPEEDS] == [90.0, 100.0, 900.0]


def test_a_diagnosed_trial_tells_why(store: Store, diagnosis: dict[str, Any], tmp_path: Path) -> None:
    """Tags to search by, the story on the run's page, and JSON, Markdown and a plot as artifacts."""
    sweep = store.sweep()
    tracker = sweep.tracker
    trial = sweep.start()
    sweep.report(trial, 0, 50)
    sweep.report(trial, 50, 62, phase="diagnosing", symptom="spike")
    sweep.report(trial, 61, 62, phase="stopped", symptom="spike", diagnosis=diagnosis)
    sweep.complete(trial)
    assert tracker.finish([]) is None

    run = store.trial()
    told = {
        key.removeprefix("diagnosis."): value for key, value in run.data.tags.items() if key.startswith("diagnosis.")
    }
    assert told == {
        "cause": "lr_jump",
        "group": "learning_rate",
        "confidence": "0.93",
        "step": "61",
        "epoch": "1",
        "symptom": "spike",
        "remedy": "hold the learning rate at 0.03 after step 60",
        "verified": "true",
    }
    assert run.info.status == "KILLED"
    assert run.data.tags["mlflow.note.content"].startswith("# spike at step 61 (epoch 1): lr_jump")
    assert repr(json.loads(store.artifact(run, "diagnosis.json", tmp_path / "a"))) == repr(diagnosis)
    assert store.artifact(run, "diagnosis.md", tmp_path / "a").startswith(b"# spike")
    assert store.artifact(run, "loss.png", tmp_path / "a").startswith(b"\x89PNG")
    assert len(store.losses(run)) == 62


def test_losses_that_are_no_numbers_are_kept(store: Store) -> None:
    """NaN and infinity break no batch, flatten no chart, and the first of each is told with its step."""
    sweep = store.sweep()
    tracker = sweep.tracker
    trial = sweep.start()
    bad = {3: math.inf, 4: math.nan, 5: -math.inf}
    sweep.report(trial, 0, 8, lambda step: bad.get(step, 0.5), best_val_top1=math.nan)
    sweep.complete(trial)
    assert tracker.finish([]) is None

    run = store.trial()
    losses = store.losses(run)
    assert [step for step, value in losses if math.isnan(value)] == [3, 4, 5]
    assert [value for _, value in losses if not math.isnan(value)] == [0.5] * 5
    assert run.data.tags["non_finite.loss"] == "inf at step 3"


def test_a_restored_sweep_goes_on_in_its_runs(store: Store) -> None:
    """After a restore no run is doubled, and steps that are reported again are not logged again."""
    first = store.tracker()
    sweep = store.sweep(first)
    first.setup()
    trial = sweep.start()
    sweep.report(trial, 0, 30, best_val_top1=0.4)
    sweep.report(trial, 30, 40, best_val_top1=0.4)
    first.on_experiment_end(sweep.trials)
    state = first.get_state()
    frozen = pickle.dumps(first)
    assert first.finish([]) is None
    assert [run.info.status for run in store.runs()] == ["KILLED", "KILLED"]
    assert state is not None

    by_state = store.tracker()
    by_state.set_state(state)
    for tracker in (by_state, pickle.loads(frozen), store.tracker(parent_run_id=first.parent_run_id)):  # noqa: S301
        again = store.sweep(tracker)
        tracker.setup()
        trial = again.start()
        assert next(run.info.status for run in store.runs()) == "RUNNING"
        again.report(trial, 20, 45, best_val_top1=0.2)
        again.report(trial, 45, 60, best_val_top1=0.6, phase="finished")
        again.complete(trial)
        assert tracker.finish([]) is None
        assert tracker.parent_run_id == first.parent_run_id

    parent, child = store.runs()
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert [step for step, _ in store.losses(child)] == list(range(60))
    assert child.data.metrics["best_val_top1"] == 0.6
    assert [value for _, value in store.losses(child, "best_val_top1")] == [0.4, 0.6]


def test_a_killed_driver_leaves_no_end_untold(store: Store) -> None:
    """An end is in the store before Tune can know of it; one that is missing there is made good on a restore, once."""
    script = (
        "import os, signal\n"
        "from tests.infra.conftest import Store\n"
        "from pathlib import Path\n"
        f"sweep = Store({store.uri!r}, Path({str(store.storage)!r}), {store.experiment!r}).sweep()\n"
        "sweep.tracker.setup()\n"
        "told, untold = sweep.start('t_00000'), sweep.start('t_00001')\n"
        "sweep.report(untold, 0, 30)\n"
        "sweep.report(told, 0, 40, phase='finished')\n"
        "sweep.complete(told)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "")
    parent, told, untold = store.runs()
    assert [run.info.status for run in (parent, told, untold)] == ["RUNNING", "FINISHED", "RUNNING"]
    assert len(store.losses(told)) == 40

    tracker = store.tracker(parent_run_id=parent.info.run_id)
    sweep = store.sweep(tracker)
    tracker.setup()
    for trial_id in ("t_00000", "t_00001", "t_00002"):
        trial = Trial("run_trial", stub=True, trial_id=trial_id, config=POINT)
        trial.update_last_result(sweep.row(20, 40, phase="finished"))
        trial.set_status(Trial.TERMINATED)
        sweep.trials.append(trial)
    tracker.on_step_begin(0, sweep.trials)
    tracker.on_step_begin(1, sweep.trials)
    tracker.on_experiment_end(sweep.trials)
    assert tracker.finish([]) is None

    assert [run.info.status for run in store.runs()] == ["FINISHED"] * 4
    assert store.trial("t_00000").info.end_time == told.info.end_time
    assert [step for step, _ in store.losses(store.trial("t_00001"))] == list(range(40))
    assert [step for step, _ in store.losses(store.trial("t_00002"))] == list(range(20, 40))


def test_a_result_that_comes_before_its_start_begins_the_run(local: Store) -> None:
    """A trial whose start this process did not see gets its run with its first row."""
    sweep = local.sweep()
    sweep.report(Trial("run_trial", stub=True, trial_id="a1b2c_00004", config={}), 0, 5)
    assert sweep.tracker.finish([]) is None

    assert len(local.losses(local.trial("a1b2c_00004"))) == 5


def test_each_end_has_its_status(local: Store) -> None:
    """Finished, stopped before its last step, failed, and interrupted trials are told apart."""
    sweep = local.sweep()
    tracker = sweep.tracker
    tracker.setup()
    finished, pruned, failed, interrupted = (sweep.start(f"t_0000{k}") for k in range(4))
    sweep.report(finished, 0, 5, phase="finished")
    sweep.report(pruned, 0, 5)
    sweep.complete(finished)
    sweep.complete(pruned)
    tracker.on_trial_error(0, sweep.trials, failed)
    sweep.report(interrupted, 0, 5)
    tracker.on_experiment_end(sweep.trials)
    assert tracker.finish([]) is None

    assert [run.info.status for run in local.runs()] == ["KILLED", "FINISHED", "KILLED", "FAILED", "KILLED"]
    assert {run.data.tags.get("diagnosis.symptom") for run in local.runs()[1:]} == {"none"}
    assert local.trial("t_00002").data.tags["error"] == "the trial's process ended without a word"


def test_long_values_are_cut_to_what_mlflow_takes(local: Store, diagnosis: dict[str, Any]) -> None:
    """A param or a tag beyond MLflow's limits loses its end, not its run."""
    diagnosis["table"] *= 80
    diagnosis["remedy"]["text"] = "x" * 9000
    tracker = TrialTracker(local.uri, local.experiment, "first-light", {"space": {}, "trial": {}, "note": "n" * 7000})
    sweep = local.sweep(tracker)
    trial = sweep.start(point={})
    sweep.report(trial, 0, 62, phase="stopped", symptom="spike", diagnosis=diagnosis)
    sweep.complete(trial)
    assert tracker.finish([]) is None

    parent, child = local.runs()
    assert len(parent.data.params["note"]) == 6000
    assert len(child.data.tags["diagnosis.remedy"]) == MAX_TAG_CHARS
    assert len(child.data.tags["mlflow.note.content"]) <= MAX_TAG_CHARS
    assert child.data.tags["mlflow.note.content"].endswith("the whole is in the run's artifacts)")


def test_a_store_that_refuses_the_sweep_ends_it_before_a_trial(local: Store) -> None:
    """An experiment that was deleted is one line that names it, before anything is trained."""
    client = local.client
    client.delete_experiment(client.create_experiment(local.experiment))
    tracker = local.tracker()

    with pytest.raises(TrackingError, match=r"tracking\.experiment: 'epoch14' is not allowed") as caught:
        tracker.setup()
    assert "\n" not in str(caught.value)
    assert client.search_experiments(view_type=ViewType.DELETED_ONLY)


def test_a_process_that_ends_without_finish_still_writes_and_is_silent(new_store: Store) -> None:
    """What is queued when the driver ends reaches a new store; MLflow's migrations, links and bars stay unheard."""
    script = (
        "from infra.tracking_callback import TrialTracker\n"
        "from ray.tune.experiment import Trial\n"
        f"tracker = TrialTracker({new_store.uri!r}, {new_store.experiment!r}, 's', {{}})\n"
        "tracker.setup()\n"
        "trial = Trial('x', stub=True, trial_id='t')\n"
        "tracker.on_trial_start(0, [], trial)\n"
        "tracker.on_trial_complete(0, [], trial)\n"
        "raise SystemExit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert [run.info.status for run in new_store.runs()] == ["FAILED", "KILLED"]


def test_a_run_has_a_place_to_look_at(store: Store) -> None:
    """On a server it is the address of the run's page; else, and for a run that is gone, store and run are named."""
    tracker = store.tracker()
    run_id = tracker.parent_run_id
    assert tracker.finish([]) is None
    experiment_id = store.client.get_run(run_id).info.experiment_id
    plain = f"{store.uri} experiment {store.experiment} run {run_id}"
    page = f"{store.uri}/#/experiments/{experiment_id}/runs/{run_id}"

    assert run_place(store.uri, store.experiment, run_id) == (page if store.uri.startswith("http") else plain)
    assert run_place(store.uri, "gone", "0" * 32) == f"{store.uri} experiment gone run {'0' * 32}"

"""A real MLflow server, real stores, and a sweep driven as Tune drives its callbacks."""

from __future__ import annotations

import copy
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ray.tune.experiment import Trial

from infra.tracking import default_tracking_uri, open_client
from infra.tracking_callback import TrialTracker
from tests.local_servers import free_port

START_LIMIT_S = 120.0
SPACE = {"model.norm": ["bn", "gn"], "schedule": [{"kind": "constant"}, {"kind": "cosine"}], "optim.lr": [0.1, 3.0]}
POINT = {"model.norm": "gn", "schedule": {"kind": "cosine"}, "optim.lr": 3.0}
BASE = {"max_steps": 60, "model": {"name": "resnet18"}, "global_batch_size": 32}


@dataclass
class MlflowServer:
    """`mlflow server` on SQLite in `folder`, in a process group of its own; may be killed and started again."""

    folder: Path
    port: int
    host: str = "127.0.0.1"
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Start it and wait until /health answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        deadline = time.monotonic() + START_LIMIT_S
        while not self.healthy():
            assert process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def healthy(self) -> bool:
        """Whether /health answers."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:  # noqa: S310 - our own
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """End it at once, its worker too."""
        while self.processes:
            process = self.processes.pop()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


Loss = Callable[[int], float]


def falling(step: int) -> float:
    """A healthy loss."""
    return 1.0 / (1 + step)


@dataclass
class Sweep:
    """Drives a tracker as Tune does."""

    tracker: TrialTracker
    trials: list[Trial] = field(default_factory=list)

    def start(self, trial_id: str = "a1b2c_00000", point: dict[str, Any] | None = None) -> Trial:
        """Start a trial."""
        trial = Trial("run_trial", stub=True, trial_id=trial_id, config=POINT if point is None else point)
        self.trials.append(trial)
        self.tracker.on_trial_start(0, self.trials, trial)
        return trial

    def report(self, trial: Trial, start: int, stop: int, loss: Loss = falling, **changes: Any) -> None:
        """Report its steps [start, stop) as `run_trial` does."""
        self.tracker.on_trial_result(0, self.trials, trial, self.row(start, stop, loss, **changes))

    def row(self, start: int, stop: int, loss: Loss = falling, **changes: Any) -> dict[str, Any]:
        """What `run_trial` reports of the steps [start, stop), among Tune's own keys."""
        moments = {"lr": 0.1, "input_mean": [0.1, -0.2, 0.3]}
        history = [{"step": step, "loss": loss(step), **moments} for step in range(start, stop)]
        row = {"step": stop - 1, "epoch": 0, "phase": "training", "loss": loss(stop - 1), "lr": 0.1, "val_top1": 0.0}
        row |= {"best_val_top1": 0.0, "images_per_s": 9.5, "symptom": "", "history": history, "diagnosis": None}
        return row | {"training_iteration": 1, "trial_id": "not ours", **changes}

    def complete(self, trial: Trial) -> None:
        """End it."""
        self.tracker.on_trial_complete(0, self.trials, trial)


@dataclass
class Store:
    """A store, and what is in it."""

    uri: str
    storage: Path
    experiment: str

    @property
    def client(self) -> MlflowClient:
        """A client of it."""
        return open_client(self.uri)

    def tracker(self, **changes: Any) -> TrialTracker:
        """A tracker of a sweep over SPACE."""
        params = {"name": "first-light", "trial": BASE, "space": SPACE, "storage": str(self.storage)}
        return TrialTracker(self.uri, self.experiment, "first-light", params, **changes)

    def sweep(self, tracker: TrialTracker | None = None) -> Sweep:
        """A sweep that is recorded there."""
        return Sweep(tracker or self.tracker())

    def runs(self) -> list[Run]:
        """The parent first, then the trials by id."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        return sorted(
            self.client.search_runs([experiment.experiment_id]), key=lambda run: run.data.tags.get("trial_id", "")
        )

    def trial(self, trial_id: str = "a1b2c_00000") -> Run:
        """The one run of a trial."""
        (run,) = (run for run in self.runs() if run.data.tags.get("trial_id") == trial_id)
        return run

    def losses(self, run: Run, key: str = "loss") -> list[tuple[int, float]]:
        """(step, value) of a metric, by step."""
        return sorted((point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key))

    def artifact(self, run: Run, name: str, folder: Path) -> bytes:
        """Content of an artifact, by way of `folder`."""
        folder.mkdir(exist_ok=True)
        return Path(self.client.download_artifacts(run.info.run_id, name, str(folder))).read_bytes()


@pytest.fixture(scope="session")
def mlflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The session's server as a process."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), free_port())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def mlflow_server(mlflow_process: MlflowServer) -> str:
    """URI of a real MLflow server that lives as long as the session."""
    return mlflow_process.uri


@pytest.fixture(scope="session")
def server_store(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
    """A factory: an experiment's name -> a store on the session's server, for records that several tests read."""
    return lambda experiment: Store(mlflow_server, tmp_path_factory.mktemp("storage"), experiment)


@pytest.fixture
def mortal_server(mlflow_process: MlflowServer) -> Iterator[MlflowServer]:
    """The session's server for a test that kills it; it runs again afterwards."""
    yield mlflow_process
    if not mlflow_process.healthy():
        mlflow_process.kill()
        mlflow_process.start()


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A local SQLite store, and a server."""
    if request.param == "server":
        uri: str = request.getfixturevalue("mlflow_server")
        return Store(uri, tmp_path, f"experiment of {request.node.name}")
    local: Store = request.getfixturevalue("local")
    return local


@pytest.fixture
def local(tmp_path: Path, empty_store: Path) -> Store:
    """A local SQLite store."""
    shutil.copy(empty_store, tmp_path)
    return Store(default_tracking_uri(tmp_path), tmp_path, "epoch14")


@pytest.fixture
def new_store(tmp_path: Path) -> Store:
    """A local SQLite store whose file is yet to be made."""
    return Store(default_tracking_uri(tmp_path), tmp_path, "epoch14")


@pytest.fixture
def mortal_store(mortal_server: MlflowServer, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A store on the server that the test may kill."""
    return Store(mortal_server.uri, tmp_path / "storage", request.node.name)


@pytest.fixture
def diagnosis(one_diagnosis: dict[str, Any]) -> dict[str, Any]:
    """A diagnosis as `run_trial` reports it."""
    return copy.deepcopy(one_diagnosis)


@pytest.fixture(scope="session")
def one_diagnosis() -> dict[str, Any]:
    """What `diagnosis` is a copy of; not to be changed."""
    return {
        "symptom": {
            "kind": "spike",
            "step": 61,
            "onset": 58,
            "epoch": 1,
            "severity": 14.2,
            "detail": "loss 3.1 is 14.2 noise units above its median 0.4",
        },
        "cause": "lr_jump",
        "group": "learning_rate",
        "confidence": 0.93,
        "summary": "the rate rose tenfold at step 60",
        "table": [
            {
                "ingredient": "learning_rate",
                "swap": "0.03 held from before step 60",
                "severity_without": 0.4,
                "necessary": "yes",
                "severity_alone": 13.8,
                "sufficient": "yes",
                "evidence": "without it the event is gone",
            },
            {
                "ingredient": "samples",
                "swap": "other samples",
                "severity_without": 14.1,
                "necessary": "no",
                "severity_alone": None,
                "sufficient": None,
                "evidence": "train/shirt|polo/0001.jpg",
            },
        ],
        "controls": {
            "exact": 14.2,
            "exact_bits_equal": True,
            "placebo": [13.9, 14.4],
            "all_reference": 0.2,
            "snapshot_step": 50,
            "horizon": 24,
        },
        "curves": {
            "as run": [[50, 0.41], [58, 0.6], [61, 3.1]],
            "all reference": [[50, 0.41], [61, 0.38]],
            "learning_rate swapped": [[50, 0.41], [61, math.nan]],
        },
        "remedy": {
            "change": {"schedule.gamma": 1.0},
            "text": "hold the learning rate at 0.03 after step 60",
            "verified": True,
            "severity": 0.3,
        },
        "replayed_steps": 240,
        "seconds": 41.0,
    }

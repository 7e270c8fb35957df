"""One trial in this process, in a Tune actor and in a Ray Train worker group: the same numbers, and no exploit."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.tune import Callback

from infra.ray_capacity import Need
from infra.ray_events import Outcomes, TrialOutcome
from infra.ray_runtime import ARROW_TYPES, Cluster, disarm_arrow_types, ray_session
from infra.ray_search import searcher
from infra.ray_trial import trial_checkpoints, trial_function, trial_resources
from infra.ray_tune import TuneJob, fit
from infra.stopper import LossSpikeStopper

if TYPE_CHECKING:
    from tests.conftest import RayHere

STEPS = 6
WITNESS = '''
"""A fault that changes nothing: it writes down what its process sees, and reads Parquet files that carry an exploit."""
import json, os
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
from trainables.ranks import Ranks

def witness(recipe, *, folder):
    ranks, folder = Ranks.current(), Path(folder)
    seen = {"pid": os.getpid(), "world_size": ranks.world_size}
    seen |= {"helped": recipe.train.helper is not None}
    seen |= {"omp": os.environ.get("OMP_NUM_THREADS"), "ray": os.environ.get("RAY_ADDRESS")}
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(seen))
    for file in (folder / "exploits").glob("*.parquet"):
        table = pq.read_table(file)
        table.to_pylist(), table.to_pandas()

    def write(ingredients):
        np.save(folder / f"rank{ranks.rank}-step{ingredients.step}.npy", ingredients.sample_ids)
        return ingredients

    return write
'''
RAY_STORAGE = {
    "ray.data.arrow_tensor": pa.array([[1, 2]], pa.list_(pa.int64())),
    "ray.data.arrow_tensor_v2": pa.array([[1, 2]], pa.large_list(pa.int64())),
    "ray.data.arrow_variable_shaped_tensor": pa.array(
        [{"data": [1], "shape": [1]}],
        pa.struct([("data", pa.list_(pa.int64())), ("shape", pa.list_(pa.int64()))]),
    ),
    "ray.data.arrow_pickled_object": None,
}
"""Ray's extension types that unpickle (CVE-2026-41486), and a column as each stores it; None: the pickle itself."""


class Touch:
    """A pickle that makes a file: harmless, and proof that it ran."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._marker,)


def write_exploits(folder: Path) -> dict[str, Path]:
    """Write a Parquet file for each of Ray's types; returns file -> the marker that its pickle would make."""
    folder.mkdir(parents=True, exist_ok=True)
    markers = {}
    for name, storage in RAY_STORAGE.items():
        marker = folder / f"{name}.ran"
        payload = pickle.dumps(Touch(marker))
        values = pa.array([payload], pa.large_binary()) if storage is None else storage
        metadata = {"ARROW:extension:name": name, "ARROW:extension:metadata": payload}
        file = folder / f"{name}.parquet"
        schema = pa.schema([pa.field("column", values.type, metadata=metadata)])
        pq.write_table(pa.table([values], schema=schema), file)
        markers[str(file)] = marker
    return markers


@dataclass(frozen=True)
class Run:
    """What a run reported, and what its processes saw."""

    folder: Path
    outcomes: list[TrialOutcome]
    losses_of: dict[str, dict[int, float]]
    """Trial id -> step -> loss."""

    @property
    def losses(self) -> dict[int, float]:
        """Step -> loss of the only trial, or of the first."""
        return self.losses_of[self.outcomes[0].trial_id]

    def saw(self, rank: int = 0) -> dict[str, Any]:
        """What the process of that rank saw of itself."""
        seen: dict[str, Any] = json.loads((self.folder / f"rank{rank}.json").read_text())
        return seen

    def sample_ids(self, step: int, rank: int = 0) -> list[int]:
        """Samples of the global step, as that rank knows them."""
        ids: list[int] = np.load(self.folder / f"rank{rank}-step{step}.npy").tolist()
        return ids

    def ran(self) -> list[str]:
        """Exploits whose pickle ran."""
        return [marker.name for marker in (self.folder / "exploits").glob("*.ran")]


class Losses(Callback):
    """Every loss that was reported, by step."""

    def __init__(self) -> None:
        self.of: dict[str, dict[int, float]] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Each step comes once."""
        del iteration, trials, info
        losses = self.of.setdefault(trial.trial_id, {})
        for entry in result["history"]:
            assert entry["step"] not in losses
            losses[entry["step"]] = entry["loss"]


def run_trials(folder: Path, need: Need, cluster: Cluster, *, trials: int = 1, loader: str = "threads") -> Run:
    """Equal short trials, one after another, of a ResNet-18 with group norm on the digits, on that Ray."""
    witness = {"use": "epoch14_test_witness:witness", "params": {"folder": str(folder)}}
    base = {
        "max_steps": STEPS,
        "global_batch_size": 16,
        "eval_every": STEPS,
        "report_every": 2,
        "threads": 2,
        "data": {"image_size": 16, "loader": loader},
        "precision": {"channels_last": False},
        "model": {"name": "resnet18", "width": 0.5, "norm": "gn"},
        "schedule": {"kind": "constant"},
        "optim": {"lr": 0.05},
        "faults": [witness],
    }
    losses, outcomes = Losses(), Outcomes()
    checkpoints = trial_checkpoints(str(folder / "train"), only_trial=False)
    job = TuneJob(
        function=trial_function(base, need, str(folder / "train"), checkpoints),
        resources=trial_resources(need, cluster),
        param_space={},
        num_samples=trials,
        searcher=searcher("grid", 0, max_concurrent=1),
        scheduler=None,
        stopper=LossSpikeStopper(),
        reuse_actors=trials > 1,
        folder=folder / "tune",
        callbacks=[losses, outcomes],
    )
    fit(job, resume=False)
    ended = list(outcomes.trials.values())
    assert [outcome.status for outcome in ended] == ["finished"] * trials, ended
    return Run(folder, ended, losses.of)


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Iterator[Callable[[str], Path]]:
    """New folders, in an environment where every process finds the witness and the digits."""
    code = tmp_path_factory.mktemp("code")
    (code / "epoch14_test_witness.py").write_text(WITNESS)

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        write_exploits(folder / "exploits")
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(code)
        patch.setenv("PYTHONPATH", f"{code}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield make


@pytest.fixture(scope="module")
def here(make_folder: Callable[[str], Path], ray_here: RayHere) -> Run:
    """A run in local mode."""
    ray_here.off()
    need = Need()
    with ray_session(local=True, address=None, need=need) as cluster:
        return run_trials(make_folder("here"), need, cluster)


@pytest.fixture(scope="module")
def cluster(here: Run, make_folder: Callable[[str], Path]) -> Iterator[Cluster]:
    """A Ray on this machine that can run worker groups; `here` comes first, for its local mode needs Ray to be off."""
    del here, make_folder
    with ray_session(local=False, address=None, need=Need(workers=2)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def actor(cluster: Cluster, make_folder: Callable[[str], Path]) -> Run:
    """The same run in a Tune actor that Ray gives one CPU, and once more in the same actor."""
    return run_trials(make_folder("actor"), Need(cpus_per_worker=1), cluster, trials=2, loader="process")


@pytest.fixture(scope="module")
def workers(cluster: Cluster, make_folder: Callable[[str], Path]) -> Run:
    """The same run in a worker group of two."""
    return run_trials(make_folder("workers"), Need(workers=2, cpus_per_worker=1), cluster, loader="process")


def bits(losses: dict[int, float]) -> dict[int, str]:
    """The losses, exactly."""
    return {step: loss.hex() for step, loss in losses.items()}


def test_local_mode_is_this_process(here: Run) -> None:
    """In local mode the trial runs in the process that asked for it, where a debugger can stop it."""
    assert here.saw()["pid"] == os.getpid()


def test_actor_and_local_mode_agree_to_the_last_bit(here: Run, actor: Run) -> None:
    """Every loss is the same float in local mode and in a Tune actor, though Ray gives the actor one OpenMP thread."""
    assert actor.saw()["pid"] != os.getpid()
    assert actor.saw()["omp"] == "1"
    assert sorted(here.losses) == list(range(STEPS))
    assert bits(here.losses) == bits(actor.losses)
    assert here.outcomes[0].row["best_val_top1"] == actor.outcomes[0].row["best_val_top1"]


def test_processes_beside_actors_and_workers_decode(here: Run, actor: Run, workers: Run) -> None:
    """Ray lets both have one, so the losses that the tests here compare are of both ways to load."""
    assert not here.saw()["helped"]
    assert all(seen["helped"] for seen in (actor.saw(), workers.saw(0), workers.saw(1)))


def test_actor_is_used_again_and_forgets(actor: Run) -> None:
    """The next trial runs in the same process, without its imports, and what ran there before changes no bit."""
    first, second = actor.outcomes
    assert first.row["pid"] == second.row["pid"]
    assert bits(actor.losses_of[first.trial_id]) == bits(actor.losses_of[second.trial_id])


def test_two_workers_see_the_same_samples(here: Run, workers: Run) -> None:
    """Two ranks work on the very samples, in the very order, that one process has, at every step."""
    assert (workers.saw(0)["world_size"], workers.saw(1)["world_size"]) == (2, 2)
    assert workers.saw(0)["pid"] != workers.saw(1)["pid"]
    for step in range(STEPS):
        assert workers.sample_ids(step, rank=0) == here.sample_ids(step)
        assert workers.sample_ids(step, rank=1) == here.sample_ids(step)


def test_two_workers_take_the_same_first_step(here: Run, workers: Run) -> None:
    """With group norm the first loss over two ranks is the one of one process within 1e-5, and each step comes once."""
    assert sorted(workers.losses) == list(range(STEPS))
    assert workers.losses[0] == pytest.approx(here.losses[0], abs=1e-5)
    assert workers.losses[1] == pytest.approx(here.losses[1], abs=1e-3)


def test_worker_groups_know_their_ray(workers: Run) -> None:
    """A worker group has the address of its own Ray, without which Train can't free its CPUs beside a second Ray."""
    assert workers.saw()["ray"] == ray.get_runtime_context().gcs_address


@pytest.mark.parametrize("kind", ["here", "actor", "workers"])
def test_no_process_runs_an_exploit(kind: str, request: pytest.FixtureRequest) -> None:
    """Parquet files that run code through Ray's Arrow types (CVE-2026-41486) are inert wherever a trial reads them."""
    run: Run = request.getfixturevalue(kind)
    assert run.ran() == []


def test_armed_types_run_code(tmp_path: Path) -> None:
    """The exploits are real: without our guard Ray 2.54.1 runs each file's pickle, and 2.60 that of pickled objects."""
    markers = write_exploits(tmp_path)
    code = (
        "import contextlib, sys, ray.data, pyarrow.parquet as pq\n"
        "for file in sys.argv[1:]:\n"
        "    with contextlib.suppress(Exception): pq.read_table(file).to_pylist()"
    )
    subprocess.run([sys.executable, "-c", code, *markers], check=True, capture_output=True, timeout=120)
    ran = [marker.stem for marker in markers.values() if marker.exists()]
    assert ran == (list(RAY_STORAGE) if ray.__version__ == "2.54.1" else ["ray.data.arrow_pickled_object"])


def test_guard_makes_them_inert(tmp_path: Path) -> None:
    """With our guard no call runs a pickle, and the stored values can still be read."""
    import ray.data  # noqa: F401 - registers the types

    disarm_arrow_types()
    markers = write_exploits(tmp_path)
    assert len(markers) == len(ARROW_TYPES)
    for file in markers:
        table = pq.read_table(file)
        assert len(table.to_pylist()) == 1
        assert len(table.to_pandas()) == 1
    assert [marker.name for marker in markers.values() if marker.exists()] == []


def test_guard_holds_against_a_later_import(tmp_path: Path) -> None:
    """A Ray that is imported after the guard can't arm its types again."""
    markers = write_exploits(tmp_path)
    code = (
        "import sys; from infra.ray_runtime import disarm_arrow_types; disarm_arrow_types()\n"
        "import ray.data, pyarrow.parquet as pq\n"
        "for file in sys.argv[1:]: print(len(pq.read_table(file).to_pylist()))"
    )
    command = [sys.executable, "-c", code, *markers]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == ["1"] * len(ARROW_TYPES)
    assert [marker.name for marker in markers.values() if marker.exists()] == []

"""Exact resume: weights of a run that was killed at random steps against those of one that was never interrupted.

    make bench-resume ARGS="--kills 10 --ways 1,2,3,4,local,actor"

Ways are a number of ranks (gloo, no Ray), `local` (Ray local mode) and `actor` (a Tune actor). Each run gets a SIGKILL
at one random step (ranks: one random rank; Ray: the whole job, driver and cluster), goes on by itself from its last
checkpoint, and its final weights, buffers and momentum are hashed. Exits 1 where a hash differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainables.checkpoint import CheckpointStore  # noqa: E402 - after the path
from trainables.config import TrialConfig  # noqa: E402
from trainables.ranks import Ranks  # noqa: E402
from trainables.trial import run_trial  # noqa: E402

STEPS, EVERY = 24, 5
# Imports are paid once and each run is a fork, so nothing in this process may start torch's threads.
FORK = multiprocessing.get_context("fork")


def run_config(norm: str) -> dict[str, Any]:
    """A short run with all that has a state: momentum, running statistics, averages, the detector."""
    return {
        "max_steps": STEPS,
        "global_batch_size": 24,
        "eval_every": 10,
        "report_every": 4,
        "threads": 1,
        "device": "cpu",
        "data": {"image_size": 16, "augment": "crop_flip"},
        "model": {"name": "resnet18", "norm": norm},
        "optim": {"lr": 0.02, "ema_decay": 0.9},
        "schedule": {"kind": "cosine_warmup", "warmup_steps": 4},
        "checkpoint": {"every": EVERY},
    }


Kill = tuple[int, int]
"""A rank, and the step before which it dies."""


def run_rank(rank: int, world: int, values: dict[str, Any], folder: str, group: str, kill: Kill | None) -> None:
    """One rank of the run."""
    import torch.distributed as dist

    if kill is not None:
        # The others end with the traceback of a lost peer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=world)
    steps = iter(range(10**9))

    def notice() -> bool:
        if (rank, next(steps)) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    config = TrialConfig.parse(values)
    assert Ranks.current() == Ranks(rank, world)
    result = run_trial(config, lambda row: None, checkpoints=f"{folder}/checkpoints", notice=notice)
    assert result.phase == "finished", result


def run_ranks(world: int, values: dict[str, Any], folder: str, kill: Kill | None) -> bool:
    """Run on `world` ranks, of which one may die; whether all came to their end."""
    group = tempfile.mktemp(dir=folder)  # noqa: S306 - the ranks meet in a file that isn't there yet
    ranks = [FORK.Process(target=run_rank, args=(rank, world, values, folder, group, kill)) for rank in range(world)]
    for process in ranks:
        process.start()
    while any(process.is_alive() for process in ranks) and not any(process.exitcode for process in ranks):
        time.sleep(0.02)
    for process in ranks:
        process.kill()
        process.join()
    return all(process.exitcode == 0 for process in ranks)


def run_sweep(values: dict[str, Any], folder: str, way: str, kill: tuple[int, float] | None) -> bool:
    """The run as a sweep of one trial, gone on with where there is a state of it; whether it came to its end.

    `kill`: the whole job dies so many seconds after it has a checkpoint of that step.
    """
    sweep = {"name": "resume", "trial": values, "storage": folder, "resources": {"cpus_per_worker": 1}}
    file = Path(folder) / "sweep.yaml"
    file.write_text(json.dumps(sweep))
    old = [str(path.parent) for path in Path(folder).glob("*/sweep.yaml")]
    command = [sys.executable, "-m", "pipelines", "sweep", str(file)]
    command += (["--local"] if way == "local" else []) + (["--resume", old[-1]] if old else [])
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while job.poll() is None:
        if kill is not None and last_step(folder) >= kill[0]:
            time.sleep(kill[1])
            kill_tree(job.pid)
            job.wait()
            return False
        time.sleep(0.05)
    return job.returncode == 0


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all that it started."""
    import psutil

    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


def checkpoints_of(folder: str) -> list[Path]:
    """Committed checkpoints below `folder`, by step."""
    return sorted(Path(folder).rglob("checkpoints/step-*"), key=lambda path: path.name)


def last_step(folder: str) -> int:
    """Step of the last committed checkpoint; 0: none."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints_of(folder)), default=0)


def final_hash(folder: str) -> str:
    """Hash of every tensor of the last checkpoint, which must be the run's end."""
    with CheckpointStore(str(checkpoints_of(folder)[-1].parent), keep=2) as store:
        last = store.latest()
    assert last is not None
    assert last.step == STEPS, last.step
    digest = hashlib.sha256()
    for name, tensor in sorted(last.tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    digest.update(json.dumps(last.meta["detector"], sort_keys=True).encode())
    return digest.hexdigest()


def one_run(way: str, norm: str, rng: random.Random | None) -> tuple[str, str]:
    """(hash, where it was killed) of one run; `rng` None: never interrupted."""
    values = run_config(norm)
    with tempfile.TemporaryDirectory() as folder:
        if way.isdigit():
            world = int(way)
            kill = (rng.randrange(world), rng.randrange(1, STEPS - 1)) if rng else None
            finished = run_ranks(world, values, folder, kill)
            finished = finished if rng is None else not finished and run_ranks(world, values, folder, None)
            where = f"rank {kill[0]} before step {kill[1]}" if kill else ""
        else:
            moment = (rng.choice((5, 10, 15)), rng.uniform(0.0, 0.8)) if rng else None
            finished = run_sweep(values, folder, way, moment)
            where = f"after checkpoint {last_step(folder)}"
            finished = finished if rng is None else not finished and run_sweep(values, folder, way, None)
        assert finished, f"{way}: the run did not come to its end"
        return final_hash(folder), where


def main() -> int:
    """Compare, way by way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--ways", default="1,2,3,4,local,actor")
    parser.add_argument("--norm", default="bn")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    ways, started, done = arguments.ways.split(","), time.monotonic(), 0
    total = len(ways) * (arguments.kills + 1)
    equal = {}
    for way in ways:
        rng = random.Random(f"{arguments.seed} {way}")  # noqa: S311 - kill points
        expected, _ = one_run(way, arguments.norm, None)
        equal[way] = 0
        for kill in range(arguments.kills):
            actual, where = one_run(way, arguments.norm, rng)
            equal[way] += actual == expected
            done = ways.index(way) * (arguments.kills + 1) + kill + 2
            left = (time.monotonic() - started) / done * (total - done)
            print(
                f"{way:6} killed {where}: {actual[:12]} / {expected[:12]} [about {left / 60:.0f} min left]", flush=True
            )
    print(f"\n{'way':6} {'equal':>6} of {arguments.kills}")
    for way, count in equal.items():
        print(f"{way:6} {count:6}")
    return 0 if all(count == arguments.kills for count in equal.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

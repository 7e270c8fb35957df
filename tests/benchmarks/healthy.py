"""Long healthy runs: the detector must stay silent for 2,000 steps on each of five seeds.

    make bench-healthy ARGS="--steps 2000 --seeds 5"

Trials run without Ray, one thread each, two at a time; exits 1 on an alarm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_seed(job: tuple[int, int]) -> dict[str, Any]:
    """One long run of the cosine sibling of story (a), at half its batch; what the detector said."""
    from infra.space import merge_point, probe_points
    from pipelines.config import SweepConfig
    from trainables.config import TrialConfig
    from trainables.trial import run_trial

    seed, steps = job
    sweep = SweepConfig.load("schedule")
    values = merge_point(sweep.trial, list(probe_points(sweep.axes))[1])
    values |= {"seed": seed, "threads": 1, "max_steps": steps, "eval_every": 500, "global_batch_size": 16}
    values["optim"] = {"lr": 0.02, "lr_batch_size": 32}
    started = time.monotonic()
    result = run_trial(TrialConfig.parse(values | {"diagnosis": {"enabled": False}}), lambda row: None)
    symptom = result.symptom
    return {
        "seed": seed,
        "steps": result.steps,
        "top1": round(result.best_val_top1, 3),
        "alarm": f"{symptom.kind} at {symptom.onset}: {symptom.detail}" if symptom else "",
        "seconds": round(time.monotonic() - started),
    }


def main() -> int:
    """Run the seeds and print what fired."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(seed, arguments.steps) for seed in range(arguments.seeds)]
    alarms = 0
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for done, row in enumerate(pool.imap_unordered(run_seed, jobs), start=1):
            alarms += bool(row["alarm"])
            print(f"[{done}/{len(jobs)}] {row}", flush=True)
    print(f"{alarms} alarms in {len(jobs)} healthy runs of {arguments.steps} steps")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())

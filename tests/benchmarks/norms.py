"""Every normalisation variant trains the handwritten digits to 95 % top-1, each at a rate of its own.

    python tests/benchmarks/norms.py --seeds 1 --norms gn,gn_ws

ResNet-18 at 32 px with batches of 32; norm_free is a ResNet-50. Each run goes on to its last step; the table gives the
step of the first evaluation at 95 % and the best top-1. Trials run without Ray, one thread each, two at a time, with
the detector on and no diagnosis. Exits 1 where a variant misses 95 % in a seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TARGET = 0.95


@dataclass(frozen=True)
class Variant:
    """How a normalisation variant is trained."""

    lr: float
    """Peak rate at a batch of 32."""
    max_steps: int
    name: str = "resnet18"
    optim: dict[str, Any] = field(default_factory=dict)
    """Further keys of the trial's `optim`."""


VARIANTS = {
    "bn": Variant(0.05, 150),
    "sync_bn": Variant(0.05, 150),
    "ghost_bn": Variant(0.05, 150),
    "batch_renorm": Variant(0.05, 250),
    "frozen_bn": Variant(0.002, 200),
    "gn": Variant(0.02, 200),
    "gn_ws": Variant(0.05, 200),
    "evonorm_s0": Variant(0.05, 200),
    "frn_tlu": Variant(0.05, 200),
    "norm_free": Variant(0.05, 200, "resnet50", {"agc": 0.01}),
}


def run_variant(job: tuple[str, int]) -> dict[str, Any]:
    """One trial; how soon and how well it learned the digits."""
    from trainables.config import TrialConfig
    from trainables.trial import run_trial

    norm, seed = job
    variant = VARIANTS[norm]
    values = {
        "seed": seed,
        "max_steps": variant.max_steps,
        "global_batch_size": 32,
        "eval_every": 25,
        "threads": 1,
        "device": "cpu",
        "data": {"path": "digits", "image_size": 32, "augment": "none"},
        # With its branches at zero the shallow network is slow at first.
        "model": {"name": variant.name, "norm": norm, "zero_init_last_gamma": False},
        "optim": {"lr": variant.lr} | variant.optim,
        "schedule": {"kind": "cosine_warmup", "warmup_steps": 20},
        "diagnosis": {"enabled": False},
    }
    evaluations: dict[int, float] = {}

    def keep(row: dict[str, Any]) -> None:
        evaluations.update({step["step"] + 1: step["val_top1"] for step in row["history"] if "val_top1" in step})

    started = time.monotonic()
    result = run_trial(TrialConfig.parse(values), keep)
    return {
        "norm": norm,
        "seed": seed,
        "reached": next((step for step, top1 in evaluations.items() if top1 >= TARGET), None),
        "top1": round(result.best_val_top1, 3),
        "symptom": result.symptom.kind if result.symptom else "",
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    """Train the variants that were asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--norms", default=",".join(VARIANTS))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    # The slow ones first, so that no process is left alone with them in the end.
    norms = sorted(arguments.norms.split(","), key=lambda norm: (VARIANTS[norm].name, VARIANTS[norm].max_steps))[::-1]
    jobs = [(norm, seed) for norm in norms for seed in seeds]
    rows: list[dict[str, Any]] = []
    os.environ["OMP_NUM_THREADS"] = "1"
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for done, row in enumerate(pool.imap_unordered(run_variant, jobs), start=1):
            rows.append(row)
            left = (time.monotonic() - started) / done * (len(jobs) - done)
            print(json.dumps(row), f"[{done}/{len(jobs)}, about {left / 60:.0f} min left]", flush=True)
    print(f"\n{'norm':13} {'seed':>4} {'lr':>6} {'steps':>6} {'95 % at step':>13} {'top-1':>6}  symptom")
    for row in sorted(rows, key=lambda row: jobs.index((row["norm"], row["seed"]))):
        variant = VARIANTS[row["norm"]]
        reached = row["reached"] or "never"
        numbers = f"{variant.lr:6} {variant.max_steps:6} {reached:>13} {row['top1']:6.3f}"
        print(f"{row['norm']:13} {row['seed']:4} {numbers}  {row['symptom']}")
    return 0 if all(row["top1"] >= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())

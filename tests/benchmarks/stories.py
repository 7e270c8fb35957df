"""The three stories and a counter-story for each, over several seeds: whether the diagnosed group is right.

    make bench-stories ARGS="--seeds 10 --stories schedule,labels"

Each counter-story has the same symptom from another cause. A run counts as right (the group that was injected), as
unexplained (no verdict) or as wrong; a healthy sibling counts as right where nothing fires. Trials run without Ray, one
thread each, two at a time. Exits 1 where a story is right in fewer than 8 of 10 seeds, or wrong with a verdict.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HEALTHY = "healthy"


@dataclass(frozen=True)
class Story:
    """A preset, the point of its space that is run, and what was done to it."""

    preset: str
    point: int
    group: str
    """The group that is right, or healthy."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Top-level keys of the trial that are replaced."""


def fault(name: str, start_step: int, **params: object) -> dict[str, Any]:
    """A trial's `faults` key with one built-in fault."""
    return {"faults": [{"use": f"trainables.faults:{name}", "start_step": start_step, "params": params}]}


STORIES = {
    "schedule": Story("schedule", 0, "learning_rate"),
    "schedule-cured": Story("schedule", 1, HEALTHY),
    "schedule-counter": Story("schedule", 1, "data", fault("shuffled_labels", 50)),
    "batch_norm": Story("batch_norm", 0, "normalization"),
    "batch_norm-cured-gn": Story("batch_norm", 1, HEALTHY),
    "batch_norm-cured-32": Story("batch_norm", 2, HEALTHY),
    "batch_norm-counter": Story("batch_norm", 0, "data", {"global_batch_size": 4} | fault("shuffled_labels", 0)),
    "preprocessing": Story("preprocessing", 0, "preprocessing"),
    "preprocessing-cured": Story("preprocessing", 1, HEALTHY),
    "preprocessing-counter": Story("preprocessing", 1, "data", fault("sorted_by_brightness", 50)),
}


def run_story(job: tuple[str, int]) -> dict[str, Any]:
    """One trial; what it was diagnosed with."""
    from infra.space import merge_point, probe_points
    from pipelines.config import SweepConfig
    from trainables.config import TrialConfig
    from trainables.trial import run_trial

    name, seed = job
    story = STORIES[name]
    sweep = SweepConfig.load(story.preset)
    point = list(probe_points(sweep.axes))[story.point]
    values = merge_point(sweep.trial, point) | {"seed": seed, "threads": 1} | story.changes
    started = time.monotonic()
    result = run_trial(TrialConfig.parse(values), lambda row: None)
    found = result.diagnosis
    group = HEALTHY if result.symptom is None else found.group if found else "undiagnosed"
    outcome = "right" if group == story.group else "unexplained" if group == "unexplained" else "wrong"
    return {
        "story": name,
        "seed": seed,
        "outcome": outcome,
        "symptom": result.symptom.kind if result.symptom else "",
        "onset": result.symptom.onset if result.symptom else None,
        "cause": found.cause if found else "",
        "confidence": found.confidence if found else None,
        "verified": bool(found and found.remedy and found.remedy.verified),
        "top1": round(result.best_val_top1, 3),
        "seconds": round(time.monotonic() - started, 1),
        "summary": found.summary if found else "",
    }


def main() -> int:
    """Run the stories that were asked for and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--stories", default=",".join(STORIES))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.stories.split(",")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    jobs = [(name, seed) for name in names for seed in seeds]
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    os.environ["OMP_NUM_THREADS"] = "1"
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for done, row in enumerate(pool.imap_unordered(run_story, jobs), start=1):
            counts[row["story"]][row["outcome"]] += 1
            left = (time.monotonic() - started) / done * (len(jobs) - done)
            print(json.dumps(row), f"[{done}/{len(jobs)}, about {left / 60:.0f} min left]", flush=True)
    print(f"\n{'story':24} {'right':>6} {'unexplained':>12} {'wrong':>6}")
    for name, count in counts.items():
        print(f"{name:24} {count['right']:6} {count['unexplained']:12} {count['wrong']:6}")
    enough = all(count["right"] >= 0.8 * arguments.seeds and not count["wrong"] for count in counts.values())
    return 0 if enough else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())

"""Bundles made after the run has ended are those that the run would have written itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trainables.bundle import Bundle, read_bundle
from trainables.bundle_rebuild import choose_start, rebuild_bundles
from trainables.checkpoint import Checkpoint, CheckpointStore
from trainables.checkpoint_format import STATE, Manifest
from trainables.config import TrialConfig
from trainables.errors import ConfigError
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny

JUMP = {"use": "trainables.faults:learning_rate_factor", "start_step": 35, "params": {"factor": 60.0}}
NAN = {"use": "trainables.faults:non_finite_input", "start_step": 54}


@dataclass(frozen=True)
class Ended:
    """A run that went back once and then stopped, what it told, and the bundles that it wrote itself."""

    config: TrialConfig
    diagnoses: list[dict[str, Any]]
    bundles: list[Path]
    checkpoints: str


@pytest.fixture(scope="module")
def ended(tiny: Tiny, digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The rate jumps, which is healed by a rollback; NaN comes later, past the last rollback that may be."""
    root = tmp_path_factory.mktemp("ended")
    diagnosis = {"replicates": 1, "horizon": 8, "on_event": "rollback", "max_rollbacks": 1}
    config = tiny(
        max_steps=56,
        global_batch_size=16,
        detector={"history": 16, "min_history": 12},
        diagnosis={**diagnosis, "bundle": str(root / "bundles")},
        checkpoint={"every": 10},
        faults=[JUMP, NAN],
    )
    rows: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        run_trial(config, rows.append, checkpoints=str(root / "checkpoints"))
    diagnoses = [row["event"]["diagnosis"] for row in rows if row["event"]] + [rows[-1]["diagnosis"]]
    bundles = sorted((root / "bundles").iterdir(), key=lambda folder: read_bundle(folder).snapshot.step)
    assert [found["cause"] for found in diagnoses] == ["lr_jump", "non_finite_input"]
    assert len(bundles) == 2
    return Ended(config, diagnoses, bundles, str(root / "checkpoints"))


def rebuilt(ended: Ended, start: Checkpoint | None, root: Path, cache: Path) -> list[Path]:
    """The bundles made below `root` afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(cache))
        return rebuild_bundles(ended.config, ended.diagnoses, start, root, lambda line: None)


def same(one: Path, other: Path) -> bool:
    """Whether two bundles have the same state to the bit, and say the same."""
    first, second = read_bundle(one), read_bundle(other)
    return (one / STATE).read_bytes() == (other / STATE).read_bytes() and said(first) == said(second)


def said(bundle: Bundle) -> str:
    """All but the tensors; NaN equals NaN."""
    return repr(bundle.meta)


def test_from_step_0_every_bundle_has_the_bits_of_the_runs_own(
    ended: Ended, digits_cache: Path, tmp_path: Path
) -> None:
    """The recorded diagnoses steer the run: it goes back as it did, without a replay."""
    found = rebuilt(ended, None, tmp_path, digits_cache)
    assert [folder.name for folder in found] == [folder.name for folder in ended.bundles]
    assert all(map(same, found, ended.bundles))


def test_from_a_checkpoint_after_the_rollback_the_last_bundle_is_the_runs_own(
    ended: Ended, digits_cache: Path, tmp_path: Path
) -> None:
    """The checkpoints of before the first event are gone; the last event's snapshot is still reached."""
    with CheckpointStore(ended.checkpoints, keep=2) as store:
        manifest = choose_start(store.manifests(), ended.diagnoses)
        assert manifest is not None
        start = store.at(manifest.step)
    assert start is not None
    assert len(start.meta["events"]) == 1
    (found,) = rebuilt(ended, start, tmp_path, digits_cache)
    assert same(found, ended.bundles[1])


def test_an_event_that_does_not_come_back_is_one_line(ended: Ended, digits_cache: Path, tmp_path: Path) -> None:
    """As on another device: what came instead is named, and nothing is written."""
    moved = [{**found, "symptom": {**found["symptom"], "onset": 7}} for found in ended.diagnoses]
    with pytest.raises(ConfigError, match=r"^TRIAL: 'spike at step 7' .*spike at step 3\d came.*diagnosis\.bundle"):
        rebuilt(Ended(ended.config, moved, [], ""), None, tmp_path, digits_cache)
    assert list(tmp_path.iterdir()) == []


def manifest(step: int, events: int = 0) -> Manifest:
    """Of a checkpoint."""
    return Manifest(step, 0.0, 0, {"events": [{}] * events}, 0, "")


def recorded(snapshot: int, step: int, kind: str = "spike") -> dict[str, Any]:
    """What is read of a diagnosis."""
    return {"symptom": {"kind": kind, "step": step, "onset": step}, "controls": {"snapshot_step": snapshot}}


@pytest.mark.parametrize(
    ("kept", "diagnoses", "chosen"),
    [
        ([(10, 0), (30, 0), (40, 0)], [recorded(30, 37)], 30),
        ([(40, 0)], [recorded(30, 37)], None),
        ([(20, 0), (50, 1)], [recorded(30, 37), recorded(50, 54)], 20),
        ([(40, 0), (50, 1)], [recorded(30, 37), recorded(50, 54)], 50),
        ([(50, 1)], [recorded(30, 37)], None),
        ([(30, 0)], [recorded(0, 37)], 30),
        ([(40, 0)], [recorded(0, 37)], None),
        ([(50, 0), (60, 0)], [recorded(60, 60, "eval_gap")], 50),
        ([], [recorded(30, 37)], None),
    ],
)
def test_the_start_reaches_most_events_soonest(
    kept: list[tuple[int, int]], diagnoses: list[dict[str, Any]], chosen: int | None
) -> None:
    """It knows of the events before alone, and is no younger than the snapshot; step 0's snapshot is always there."""
    found = choose_start([manifest(*checkpoint) for checkpoint in kept], diagnoses)
    assert (found.step if found is not None else None) == chosen

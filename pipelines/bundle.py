"""`epoch14 bundle`: the diagnoses of a recorded trial as folders that `epoch14 replay` repeats elsewhere.

A bundle that the trial wrote itself (diagnosis.bundle) is copied. Else the trial's last steps are run once more, from a
checkpoint that it left or from step 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.tracking_search import TrialRecord, find_trial, recorded_checkpoints, recorded_config
from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from trainables.checkpoint import Checkpoint
    from trainables.config import TrialConfig

Write = Callable[[str], None]
Diagnoses = list[dict[str, Any]]


def export(trial: str, out: Path, uri: str, *, rerun: bool, write: Write) -> list[Path]:
    """Write a bundle of each diagnosis of `trial` below `out`; returns their folders.

    rerun: where the trial left neither bundle nor checkpoint, its steps from 0 on may be run again. `write` takes the
    lines of progress. Raises ConfigError where the trial has no diagnosis, or nothing that a bundle can be made from.
    """
    record = find_trial(uri, trial)
    diagnoses = [event["diagnosis"] for event in record.events if event["diagnosis"]]
    diagnoses += [record.diagnosis] if record.diagnosis is not None else []
    if not diagnoses:
        remedy = f"see `epoch14 explain {record.trial_id}`"
        raise ConfigError(complaint("TRIAL", trial, "a trial with a diagnosis; this one has none", remedy))
    _make_folder(out)
    from trainables.config import TrialConfig

    values, sweep = recorded_config(uri, record.run_id)
    config = TrialConfig.parse(values)
    kept = _kept(config, diagnoses)
    if kept:
        return [Path(shutil.copytree(folder, out / folder.name, dirs_exist_ok=True)) for folder in kept]
    workers = (sweep.get("resources") or {}).get("workers", 1)
    if workers > 1:
        allowed = f"a trial of one worker, whose steps can be run again in this process; it had {workers}"
        raise ConfigError(complaint("TRIAL", trial, allowed, "train it with --set diagnosis.bundle=FOLDER"))
    return _rebuilt(record, config, diagnoses, recorded_checkpoints(uri, record.run_id), out, rerun=rerun, write=write)


def _rebuilt(
    record: TrialRecord,
    config: TrialConfig,
    diagnoses: Diagnoses,
    place: str,
    out: Path,
    *,
    rerun: bool,
    write: Write,
) -> list[Path]:
    from trainables.bundle_rebuild import rebuild_bundles

    start = _start(config, place, diagnoses)
    if start is None and not rerun:
        first = min(int(diagnosis["symptom"]["step"]) for diagnosis in diagnoses)
        allowed = f"a trial that left a bundle, or a checkpoint of before its event ({place or 'no place is recorded'})"
        remedy = (
            f"--rerun trains its first {first + 1} steps once more; or train it with --set diagnosis.bundle=FOLDER, or "
            "with --set checkpoint.every=N that comes before the event"
        )
        raise ConfigError(complaint("TRIAL", record.trial_id, allowed, remedy))
    write(f"bundle: running again from step {start.step if start is not None else 0}")
    folders = rebuild_bundles(config, diagnoses, start, out, lambda line: write(f"bundle: {line}"))
    for diagnosis in diagnoses[: len(diagnoses) - len(folders)]:
        symptom = diagnosis["symptom"]
        write(f"bundle: none of {symptom['kind']} at step {symptom['onset']}: no checkpoint of before it is left")
    return folders


def _kept(config: TrialConfig, diagnoses: Sequence[dict[str, Any]]) -> list[Path]:
    """The bundles that the trial wrote itself, if all of them are still there."""
    from trainables.bundle import bundle_name, read_bundle

    if config.diagnosis.bundle is None:
        return []
    values, symptoms = config.model_dump(mode="json"), [diagnosis["symptom"] for diagnosis in diagnoses]
    names = [bundle_name(values, s["kind"], s["onset"], number) for number, s in enumerate(symptoms)]
    folders = [Path(config.diagnosis.bundle) / name for name in names]
    if not all(folder.is_dir() for folder in folders):
        return []
    for folder in folders:
        read_bundle(folder)
    return folders


def _start(config: TrialConfig, place: str, diagnoses: Sequence[dict[str, Any]]) -> Checkpoint | None:
    """The checkpoint to start from, of those at `place`, which is not made where it is missing."""
    from trainables.bundle_rebuild import choose_start
    from trainables.checkpoint import CheckpointStore
    from trainables.uris import is_uri

    if not place or not (is_uri(place) or Path(place).is_dir()):
        return None
    with CheckpointStore(place, keep=config.checkpoint.keep) as store:
        manifest = choose_start(store.manifests(), diagnoses)
        return store.at(manifest.step) if manifest is not None else None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a folder that can be written ({error.strerror})"
        raise ConfigError(complaint("OUT", str(out), allowed, "name another one")) from None

"""The look that a sweep takes at its data before it starts: some images of each split, and one line a finding."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from infra.explanation import plain
from infra.space import probe_points, trial_config
from pipelines.config import SweepConfig
from trainables.data.doctor.finding import SEVERITIES, File, Finding, at_least
from trainables.data.index import Listing, default_cache_dir, list_images
from trainables.data.kept import keep_text
from trainables.data.spacing import evenly_spaced, usable_threads
from trainables.data_config import DataConfig
from trainables.errors import DataError, complaint

FIRST_LOOK = 256
"""Images of each split that are read: about two seconds, and a fault of one image in 100 is among them with 92 %."""
RULES = 1
"""Raised where the doctor's checks change, so that what was kept before is not believed."""


def look_at_data(config: SweepConfig) -> Counter[str]:
    """Write to stderr what is above info in the data sets of a sweep; returns how many of each severity.

    What was found is kept in the cache folder: torch, which reads the images, takes seconds to import. Raises DataError
    where more images don't decode than data.max_quarantined, since every trial would end at that. All else is for the
    reader to judge: a sweep may be about that very fault.
    """
    configs = {_relevant(trial_config(config.trial, point).data) for point in probe_points(config.axes)}
    listings = {path: list_images(path) for path in sorted({data.path for data in configs})}
    lines: dict[str, str] = {}
    for data in sorted(configs, key=str):
        for finding in _findings(listings[data.path], data):
            if finding.check == "undecodable" and finding.count > data.max_quarantined:
                raise _undecodable(data.path, finding)
            line = f"{finding.severity}: {data.path}: {finding.summary}; remedy: {finding.remedy}"
            lines[f"epoch14: doctor: {plain(line)}"] = finding.severity
    sys.stderr.writelines(f"{line}\n" for line in lines)
    counted = Counter(lines.values())
    return Counter({severity: counted[severity] for severity in SEVERITIES[1:]})


def _relevant(data: DataConfig) -> DataConfig:
    """Only what the doctor asks for, so that configs which differ in augmentation are one."""
    return DataConfig(
        path=data.path,
        normalization=data.normalization,
        image_size=data.image_size,
        max_quarantined=data.max_quarantined,
    )


def _undecodable(path: str, finding: Finding) -> DataError:
    allowed = f"images that decode ({finding.summary}; the first is {finding.files[0].location})"
    return DataError(complaint("data.path", path, allowed, f"replace or remove what `epoch14 doctor {path}` names"))


def _findings(listing: Listing, data: DataConfig) -> list[Finding]:
    """Findings above info, from the cache or from the images."""
    key = _key(listing, data)
    kept = default_cache_dir() / "doctor" / f"{key}.json"
    found = _read(kept) if key else None
    if found is None:
        from trainables.data.doctor.examine import examine

        found = at_least(examine(listing, data, limit=FIRST_LOOK, threads=usable_threads()), "warning")
        if key:
            keep_text(kept, json.dumps([asdict(finding) for finding in found]))
    return found


def _key(listing: Listing, data: DataConfig) -> str:
    """Hash of what the findings depend on; empty where the images are no files, whose times of change would tell."""
    digest = hashlib.blake2b(f"{RULES} {FIRST_LOOK} {data} {listing.classes}".encode(), digest_size=16)
    try:
        for split in (listing.train, listing.val):
            digest.update(split.labels.tobytes())
            for place in evenly_spaced(len(split), FIRST_LOOK):
                path = Path(split.store.locate(place))
                status = path.stat()
                digest.update(f"{str(path)!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    except OSError:
        return ""
    return digest.hexdigest()


def _read(kept: Path) -> list[Finding] | None:
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        return [Finding(**{**item, "files": tuple(File(**file) for file in item["files"])}) for item in content]
    except (OSError, ValueError, KeyError, TypeError):
        return None

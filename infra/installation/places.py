"""Where a sweep reads and writes: its storage, its checkpoints, its data."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pyarrow import fs

from infra.installation.clock import clock_finding
from infra.installation.findings import of_error, ok
from infra.installation.folders import PROBE, probe_folder
from infra.installation.wanted import Wanted
from trainables.data.doctor.finding import Finding
from trainables.data.shards.format import INDEX, Where
from trainables.data.shards.target import open_target, place_errors
from trainables.data.staging.stream import STREAM
from trainables.errors import DataError
from trainables.places import FAILURES, explain, open_filesystem
from trainables.uris import is_uri

EMBEDDED = "digits"


def check(wanted: Wanted) -> list[Finding]:
    """Whether each place can be used as the sweep will."""
    found = probe_folder("storage", Path(wanted.storage), "set storage=FOLDER")
    if wanted.checkpoints is not None:
        found += _checkpoints(wanted.checkpoints)
    for path in wanted.data:
        found.append(_data(path))
    if any(place.startswith("s3://") for place in (wanted.checkpoints or "", *(_plain(path) for path in wanted.data))):
        clock = clock_finding(_s3_endpoint())
        found += [clock] if clock else []
    return found


def _checkpoints(place: str) -> list[Finding]:
    try:
        filesystem, path = open_filesystem(place)
        if isinstance(filesystem, fs.LocalFileSystem):
            return probe_folder("checkpoints", Path(path), "set checkpoints=FOLDER")
        _probe_object(filesystem, path.rstrip("/"))
    except FAILURES as error:
        reason, remedy = explain(error)
        return [Finding("checkpoints", "error", f"{place} can't be used: {reason}", remedy)]
    return [ok("checkpoints", f"{place}: an object was written, read and deleted")]


def _probe_object(filesystem: fs.FileSystem, root: str) -> None:
    """Write, read and delete an object; raises one of FAILURES."""
    if not root:
        raise FileNotFoundError("the bucket's name is missing")
    probe = f"{root}/.epoch14-doctor-{secrets.token_hex(8)}"
    with filesystem.open_output_stream(probe, compression=None) as stream:
        stream.write(PROBE)
    try:
        with filesystem.open_input_file(probe) as file:
            if file.read() != PROBE:
                raise OSError("what was read is not what was written")
    finally:
        filesystem.delete_file(probe)


def _data(path: str) -> Finding:
    if path == EMBEDDED:
        return ok("data", "the embedded digits")
    if not is_uri(path):
        if Path(path).is_dir() and os.access(path, os.R_OK | os.X_OK):
            return ok("data", f"{path} is there (`epoch14 doctor {path}` looks at its images)")
        return Finding("data", "error", f"{path} is no folder that can be read", "correct data.path, or mount it")
    where = Where("data.path", _plain(path))
    try:
        target = open_target(where, writing=False)
        with place_errors(where, writing=False):
            shards = INDEX in target.names()
    except DataError as error:
        return of_error("data", error)
    if not shards:
        remedy = "make shards with `epoch14 shard SRC DST`, and set data.path to DST"
        return Finding("data", "error", f"{path} has no {INDEX}: there are no whole shards", remedy)
    return ok("data", f"{path} has shards")


def _plain(path: str) -> str:
    return path.removeprefix(STREAM)


def _s3_endpoint() -> str:
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or "https://s3.amazonaws.com"

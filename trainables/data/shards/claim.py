"""Whether a place may be written to: it is empty, or holds shards of the same plan, finished or not."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from trainables.data.shards.format import INDEX, WORK, ShardIndex, Where, checksum_of, parse_index
from trainables.data.shards.plan import PlannedShard, Settings
from trainables.data.shards.records import unpack_record
from trainables.data.shards.target import Target
from trainables.data.shards.write import Written
from trainables.errors import DataError

PLAN = f"{WORK}/plan.json"
RECORDS = f"{WORK}/records"


def check_place(target: Target, where: Where, plan: str) -> ShardIndex | None:
    """Check that the place is free for a plan; nothing is written.

    Args:
        target: the place.
        where: what an error names.
        plan: hash of the plan.

    Returns:
        The index where the place is finished.

    Raises:
        DataError: it holds something else.

    """
    names = target.names()
    if INDEX in names:
        index = _read_index(target, where)
        if index.plan != plan:
            raise _other(where, Settings(index.seed, index.shard_size, index.reencode).describe())
        return index
    other = _read_plan(target)
    foreign = [name for name in names if name != WORK]
    if other is None and foreign:
        allowed = f"a new or empty folder, or shards of the same source and options (it holds {foreign[0]!r:.80})"
        raise where.error(allowed, "name a new folder")
    if other is not None and other.get("plan") != plan and target.names(RECORDS):
        raise _other(where, f"{other.get('source', '')} {other.get('settings', '')}")
    return None


def write_plan(target: Target, plan: str, about: Mapping[str, str]) -> None:
    """Say whose the place is; about: what a person knows the plan by."""
    put(target, json.dumps({"plan": plan, **about}).encode(), PLAN)


def put(target: Target, content: bytes, name: str) -> None:
    """Write a small file as a whole."""
    path = target.work / "partial" / name.replace("/", "-")
    path.write_bytes(content)
    target.take(path, name)


def finished_shards(target: Target, index: ShardIndex | None, shards: Sequence[PlannedShard]) -> dict[str, Written]:
    """The shards that are whole, by name: of a record, or of the index of a finished place, and of the right size."""
    found = {} if index is None else _of_index(target, index, shards)
    for name in target.names(RECORDS):
        written = unpack_record(target.read(f"{RECORDS}/{name}"))
        if written is not None:
            found[written.file.name] = written
    return {name: written for name, written in found.items() if target.size(name) == written.file.bytes}


def _of_index(target: Target, index: ShardIndex, shards: Sequence[PlannedShard]) -> dict[str, Written]:
    """What the row tables of a finished place say; nothing of a split whose table is damaged."""
    found = {}
    for split, files in (("train", index.train), ("val", index.val)):
        content = target.read(files.rows.name) if target.size(files.rows.name) == files.rows.bytes else b""
        if checksum_of(partial(io.BytesIO, content)) != files.rows.checksum:
            continue
        rows = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        offset, length = rows["offset"].to_numpy(), rows["length"].to_numpy()
        planned = [shard for shard in shards if shard.split == split]
        for shard, file in zip(planned, files.shards, strict=True):
            found[shard.name] = Written(file, offset[shard.places], length[shard.places])
    return found


def _read_index(target: Target, where: Where) -> ShardIndex:
    try:
        return parse_index(target.read(INDEX).decode(errors="replace"), where)
    except DataError:
        allowed = f"a new or empty folder, or shards of the same source and options (its {INDEX} is foreign or damaged)"
        raise where.error(allowed, "name a new folder, or remove this one") from None


def _read_plan(target: Target) -> dict[str, Any] | None:
    """What `write_plan` wrote; None where there is nothing of the kind."""
    try:
        found = json.loads(target.read(PLAN))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _other(where: Where, described: str) -> DataError:
    allowed = f"a new or empty folder, or shards of the same source and options (it holds those of {described.strip()})"
    return where.error(allowed, "name a new folder, give the same source and options, or remove this one")

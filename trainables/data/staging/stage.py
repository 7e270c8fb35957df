"""Shards at a URI are copied to the local disk, once for all processes of a machine, and mapped from there.

    <cache>/staged/<hash>/       a folder as `epoch14 shard` writes it; its name is a hash of the URI and the index
    <cache>/staged/<hash>.lock   held by the process that fetches

Of a data set that is to be streamed only the row tables are copied.

A file gets its name once it is whole, verified and flushed, and `index.json` is written last: what bears its name needs
no other proof, and a folder with an index is finished. A data set that changed at its URI has another index, and with
it another folder; the old one stays until somebody removes it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainables.data.index import Listing, list_images
from trainables.data.shards.format import INDEX, WORK, ShardFile, Where, parse_index
from trainables.data.shards.meter import Meter, run_jobs
from trainables.data.shards.store import check_file, open_shards
from trainables.data.shards.target import FolderTarget, Target, open_target, place_errors
from trainables.data.staging.fetch import PARTIAL, Copy, cache_errors
from trainables.data.staging.stream import STREAM, open_stream
from trainables.data.staging.turn import turn

FILES_AT_ONCE = 4
"""With PARTS_AT_ONCE parts of each on their way the memory for them is 128 MiB."""


def open_staged(uri: str, cache: Path) -> Listing:
    """Open the shards at a URI, from the copy in the cache, which is made or completed first.

    Each opening reads the index at the URI, so that a changed data set is noticed.

    Args:
        uri: as of `places.open_filesystem`, after STREAM where its images are to be read from there; what a file://
            names is opened in place.
        cache: folder on a local disk.

    Raises:
        DataError: the URI can't be read or holds no shards, an object is missing or damaged, or the cache has no room.

    """
    streamed, uri = uri.startswith(STREAM), uri.removeprefix(STREAM)
    where = Where("data.path", uri)
    remote = open_target(where, writing=False)
    if isinstance(remote, FolderTarget):
        return list_images(str(remote.folder), cache_dir=cache)
    text = _read_index(remote, where)
    index = parse_index(text.decode(errors="replace"), where)
    key = hashlib.blake2b(f"{uri.rstrip('/')}\n".encode() + text, digest_size=8).hexdigest()
    copy = Copy(where, remote, cache / "staged" / key)
    with cache_errors(copy.folder):
        if streamed:
            _fetch_missing(copy, (index.train.rows, index.val.rows))
            return open_stream(copy, index)
        if not (copy.folder / INDEX).exists() or _missing(copy.folder, index.files):
            _fetch_missing(copy, index.files, then=text)
    return replace(open_shards(copy.folder), root=uri)


def _read_index(remote: Target, where: Where) -> bytes:
    with place_errors(where, writing=False):
        try:
            return remote.read(INDEX)
        except FileNotFoundError:
            names = remote.names()
    if WORK in names:
        raise where.error("shards that are all there (they are not finished)", "run their epoch14 shard command again")
    problem = f"it has no {INDEX}" if names else "nothing is there"
    remedy = "make them with `epoch14 shard SRC DST`, whose SRC may be a URI of images, and set data.path to DST"
    raise where.error(f"shards, where it is a URI ({problem})", remedy)


def _missing(folder: Path, files: Sequence[ShardFile]) -> list[ShardFile]:
    return [file for file in files if not _is_whole(folder, file)]


def _is_whole(folder: Path, file: ShardFile) -> bool:
    """A file that bears its name was verified; this finds what was cut since, and what would be no row table."""
    if file.name.startswith("rows-"):
        return check_file(folder, file) is None
    try:
        return (folder / file.name).stat().st_size == file.bytes
    except FileNotFoundError:
        return False


def _fetch_missing(copy: Copy, files: Sequence[ShardFile], *, then: bytes | None = None) -> None:
    """Have all `files` in the folder, and then the index, if its text is given."""
    folder = copy.folder
    folder.mkdir(parents=True, exist_ok=True)
    with turn(folder.with_suffix(".lock"), copy.where.value) as listener:
        for path in folder.glob(f"*{PARTIAL}"):
            path.unlink()
        missing = _missing(folder, files)
        _check_space(copy, missing)
        meter = Meter(listener)
        meter.begin("staging", sum(file.bytes for file in missing))
        run_jobs([partial(copy.fetch, file, meter) for file in missing], FILES_AT_ONCE, meter)
        if then is not None and not (folder / INDEX).exists():
            path = folder / f"{INDEX}{PARTIAL}"
            path.write_bytes(then)
            FolderTarget(folder).take(path, INDEX)


def _check_space(copy: Copy, missing: list[ShardFile]) -> None:
    staged = copy.folder.parent
    need, free = sum(file.bytes for file in missing), shutil.disk_usage(staged).free
    if need > free:
        allowed = f"a folder with {need / 1e6:.1f} MB free for {copy.where.value} (it has {free / 1e6:.1f} MB)"
        remedy = f"set EPOCH14_CACHE to a folder on a larger local disk, remove older copies in {staged}, or"
        remedy += f" set data.path to {STREAM}{copy.where.value}, which fetches each image when it is read"
        raise Where("EPOCH14_CACHE", str(staged.parent)).error(allowed, remedy)

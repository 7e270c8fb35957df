"""Which layout a source has."""

from __future__ import annotations

from pyarrow import fs

from trainables.data.shards.folders import open_folder, open_object_folder
from trainables.data.shards.format import INDEX, SPLITS, Where
from trainables.data.shards.parquet import open_parquet
from trainables.data.shards.source import LAYOUT, Source, by_split, shallow_files, split_of
from trainables.data.shards.target import place_errors
from trainables.data.shards.tars import TarSource
from trainables.places import check_bucket, open_filesystem
from trainables.retries import OPENING, patiently


def open_source(where: Where) -> Source:
    """Find out what `where.value` holds; no image is read.

    Args:
        where: the key and the URI of the source: a path, s3://bucket/prefix, or `digits`.

    Raises:
        DataError: it is missing, can't be read, or has none of the known layouts.

    """
    if where.value == "digits":
        return open_folder(where)
    with place_errors(where, writing=False):
        filesystem, path = open_filesystem(where.value)
        root = path.rstrip("/")
        kind = patiently(lambda: filesystem.get_file_info(root).type, final=OPENING)
        is_local = isinstance(filesystem, fs.LocalFileSystem)
        if kind != fs.FileType.Directory:
            if not is_local:
                patiently(lambda: check_bucket(filesystem, root), final=OPENING)
            problem = "it is missing" if kind == fs.FileType.NotFound else "it is no folder"
            raise where.error(f"{LAYOUT} ({problem})", "correct the path")
        files, folders = shallow_files(filesystem, root)
        named = [file for file in files if split_of(file.name) is not None]
        tables = [file for file in named if file.name.lower().endswith(".parquet")]
        tars = [file for file in named if file.name.lower().endswith(".tar")]
        if tables and tars:
            raise where.error("one kind of files (there are Parquet files and tar shards)", "move one kind away")
        if tables:
            return open_parquet(where, by_split(tables, where))
        if tars:
            return TarSource(where, by_split(tars, where))
        if is_local and any(file.name == INDEX for file in files) and "train" not in folders:
            return open_folder(where)
        missing = [split for split in SPLITS if split not in folders]
        if missing:
            raise where.error(f"{LAYOUT} (there is no {missing[0]})", "put the images there, or correct the path")
        return open_folder(where) if is_local else open_object_folder(where, filesystem, root)

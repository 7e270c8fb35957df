"""A whole conversion: source -> plan -> shards -> row tables -> index. Killed at any moment, it can go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trainables.data.channels import count_channels
from trainables.data.sampler import IntArray
from trainables.data.shards.claim import RECORDS, check_place, finished_shards, put, write_plan
from trainables.data.shards.format import INDEX, SPLITS, ShardFile, ShardIndex, SplitFiles, Where
from trainables.data.shards.labels import is_text
from trainables.data.shards.meter import Meter, Progress, run_jobs
from trainables.data.shards.plan import PlannedShard, Settings, plan_hash, plan_shards
from trainables.data.shards.records import pack_record
from trainables.data.shards.reencode import ReencodedStore, size_ratio
from trainables.data.shards.source import SourceData, SourceSplit
from trainables.data.shards.sources import open_source
from trainables.data.shards.target import Target, open_target, place_errors
from trainables.data.shards.write import Written, write_rows, write_shard


@dataclass(frozen=True)
class Outcome:
    """What a conversion did."""

    index: ShardIndex
    written: int
    """Shards that this run wrote."""
    images: int
    """In them."""
    bytes: int
    """Of these images in the source."""


def convert(
    source: str, target: str, settings: Settings, *, threads: int, listener: Callable[[Progress], None]
) -> Outcome:
    """Turn a data set into Arrow shards, or finish what an interrupted run of the same arguments began.

    The same source and settings give the same bytes, whatever the threads and however often the work was interrupted.
    Parquet files and remote tar shards are copied first, to the target's folder, or to the cache where the target is
    remote: meanwhile that disk holds the images twice.

    Args:
        source: a path, s3://bucket/prefix, or `digits`.
        target: a path or s3://bucket/prefix: new, empty, or of an interrupted run.
        settings: seed, size of the shards, how to encode anew.
        threads: shards that are written at once; memory grows with them, not with the data.
        listener: told how far the work is; called in any thread, by one at a time.

    Raises:
        DataError: the source is missing, damaged or of no known layout; the target can't be written or holds
            something else.

    """
    to = Where("DST", target)
    found = open_source(Where("SRC", source))
    plan = plan_hash(found.identity, settings)
    meter = Meter(listener)
    with place_errors(to, writing=True):
        place = open_target(to, writing=True)
        index = check_place(place, to, plan)
        if index is not None and all(place.size(file.name) == file.bytes for file in index.files):
            place.finish()
            return Outcome(index, 0, 0, 0)
        with place.locked():
            spool = _prepare(place, plan)
            write_plan(place, plan, {"source": source, "settings": settings.describe()})
            data = _as_written(found.load(spool, threads, meter), settings)
            outcome = _write_all(data, place, _Job(Where("SRC", source), to, plan, settings, threads, meter), index)
        place.finish()
    return outcome


@dataclass(frozen=True)
class _Job:
    source: Where
    target: Where
    plan: str
    settings: Settings
    threads: int
    meter: Meter


def _prepare(place: Target, plan: str) -> Path:
    """Clear the work folder of what a dead process left half-written; returns the folder for copies of the source."""
    shutil.rmtree(place.work / "partial", ignore_errors=True)
    (place.work / "partial").mkdir()
    spool = place.work / f"spool-{plan}"
    for other in place.work.glob("spool-*"):
        if other != spool:
            shutil.rmtree(other)
    spool.mkdir(exist_ok=True)
    return spool


def _as_written(data: SourceData, settings: Settings) -> SourceData:
    """The source's images as they will be stored; the lengths stay those of the source."""
    if settings.reencode is None:
        return data
    splits = {
        name: SourceSplit(ReencodedStore(split.store, settings.reencode), split.labels, split.lengths)
        for name, split in data.splits.items()
    }
    return SourceData(data.classes, splits)


def _write_all(data: SourceData, place: Target, job: _Job, former: ShardIndex | None) -> Outcome:
    train = data.splits["train"]
    _check_names(data, job.source)
    mean, std = count_channels(train.store)
    if min(std) <= 0.0:
        raise job.source.error("images that differ in every colour channel", "check the images")
    ratio = size_ratio(train.store, train.lengths) if isinstance(train.store, ReencodedStore) else 1.0
    shards = [shard for name in SPLITS for shard in plan_shards(name, data.splits[name].lengths, job.settings, ratio)]
    done = finished_shards(place, former, shards)
    todo = [shard for shard in shards if shard.name not in done]
    sizes = [int(data.splits[shard.split].lengths[shard.places].sum()) for shard in todo]
    job.meter.begin("writing", sum(sizes))
    jobs = [partial(_write_one, data.splits[shard.split], shard, place, job.meter) for shard in todo]
    for shard, written in zip(todo, run_jobs(jobs, job.threads, job.meter), strict=True):
        done[shard.name] = written
    index = ShardIndex(
        classes=data.classes,
        channel_mean=mean,
        channel_std=std,
        seed=job.settings.seed,
        shard_size=job.settings.shard_size,
        reencode=job.settings.reencode,
        plan=job.plan,
        train=_finish_split("train", data, shards, done, place),
        val=_finish_split("val", data, shards, done, place),
    )
    if former is not None and former != index:
        changed = "the source that the shards were made of (an image changed at the same size)"
        raise job.target.error(changed, "remove the folder and make the shards anew")
    put(place, index.to_json().encode(), INDEX)
    return Outcome(index, len(todo), sum(len(shard.places) for shard in todo), sum(sizes))


def _check_names(data: SourceData, where: Where) -> None:
    for split in data.splits.values():
        bad = next((name for name in split.store.names if not is_text(name)), None)
        if bad is not None:
            shown = bad.encode(errors="backslashreplace").decode()[:120]
            raise where.error(f"file names in UTF-8 ({shown} is not)", "rename it")


def _write_one(split: SourceSplit, shard: PlannedShard, place: Target, meter: Meter) -> Written:
    """Write a shard and, after it, its record."""
    path = place.work / "partial" / shard.name

    def count(places: IntArray) -> None:
        meter.add(len(places), int(split.lengths[places].sum()))

    try:
        written = write_shard(split.store, split.labels, shard.places, path, count)
        place.take(path, shard.name)
    finally:
        path.unlink(missing_ok=True)
    put(place, pack_record(written), f"{RECORDS}/{shard.name}")
    return written


def _finish_split(
    name: str, data: SourceData, shards: Sequence[PlannedShard], done: Mapping[str, Written], place: Target
) -> SplitFiles:
    """Write the row table of a split, in the order of sample ids."""
    split = data.splits[name]
    number = np.empty(len(split.labels), dtype=np.int32)
    offset, length = (np.empty(len(split.labels), dtype=np.int64) for _ in range(2))
    own = [shard for shard in shards if shard.split == name]
    for shard in own:
        written = done[shard.name]
        number[shard.places] = shard.number
        offset[shard.places], length[shard.places] = written.offset, written.length
    columns = {"shard": number, "offset": offset, "length": length, "label": split.labels, "name": split.store.names}
    path = place.work / "partial" / f"rows-{name}.arrow"
    rows: ShardFile = write_rows(path, columns)
    place.take(path, path.name)
    return SplitFiles(
        images=len(split.labels),
        image_bytes=int(length.sum()),
        images_per_class=tuple(np.bincount(split.labels, minlength=len(data.classes)).tolist()),
        rows=rows,
        shards=tuple(done[shard.name].file for shard in own),
    )

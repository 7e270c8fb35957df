"""Data sets of one content in every layout."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.data.index import list_images
from trainables.data.shards.convert import Outcome, convert
from trainables.data.shards.plan import Settings

MakeShards = Callable[..., Outcome]
Rewrite = Callable[..., Path]


@pytest.fixture
def make_shards() -> MakeShards:
    """A factory of shards of 10 kB, made in two threads."""

    def make(source: Path | str, target: Path | str, *, threads: int = 2, **settings: Any) -> Outcome:
        chosen = Settings(**{"shard_size": 10_000, **settings})
        return convert(str(source), str(target), chosen, threads=threads, listener=lambda progress: None)

    return make


@pytest.fixture
def as_parquet(tmp_path: Path) -> Rewrite:
    """A factory of Parquet files with the images of a folder, in its order; Hugging Face's way by default."""

    def write(folder: Path, *, plain: bool = False, strings: bool = False, files: int = 2) -> Path:
        listing = list_images(str(folder))
        target = tmp_path / "parquet"
        (target / "data").mkdir(parents=True)
        for split, part in (("train", listing.train), ("validation", listing.val)):
            images = [part.store.read(place).tobytes() for place in range(len(part))]
            labels = [listing.classes[label] if strings else label for label in part.labels.tolist()]
            structs = [{"bytes": image, "path": None} for image in images]
            image_type = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            table = pa.table(
                {"image": pa.array(images if plain else structs, image_type), "label": labels, "extra": [0] * len(part)}
            )
            if not plain and not strings:
                feature = {"names": list(listing.classes), "_type": "ClassLabel"}
                info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
                table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
            step = -(-len(part) // files)
            for number in range(files):
                path = target / "data" / f"{split}-{number:05d}-of-{files:05d}.parquet"
                pq.write_table(table.slice(number * step, step), path, row_group_size=3)
        return target

    return write


@pytest.fixture
def as_tars(tmp_path: Path) -> Rewrite:
    """A factory of webdataset shards with the images of a folder, in its order; labels as numbers or in JSON."""

    def write(folder: Path, *, in_json: bool = False, files: int = 2) -> Path:
        listing = list_images(str(folder))
        target = tmp_path / "tars"
        for split, part in (("train", listing.train), ("val", listing.val)):
            (target / split).mkdir(parents=True)
            step = -(-len(part) // files)
            for place, label in enumerate(part.labels.tolist()):
                record = json.dumps({"label": listing.classes[label], "other": 1}) if in_json else str(label)
                members = {"png": part.store.read(place).tobytes(), "json" if in_json else "cls": record.encode()}
                add_to_tar(target / split / f"{place // step:04d}.tar", f"{place:06d}", members)
        return target

    return write


def add_to_tar(path: Path, key: str, members: dict[str, bytes]) -> None:
    """Append members of a key to a tar file."""
    with tarfile.open(path, "a") as archive:
        for extension, content in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

"""Every layout of a source gives the same shards, and a wrong one is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.data.index import list_images, open_index
from trainables.data.shards.store import read_index
from trainables.data.shards.verify import verify
from trainables.errors import DataError
from trainables.rng import generator

if TYPE_CHECKING:
    from tests.trainables.data.conftest import MakeShards, Rewrite

TinyImages = Callable[..., Path]


@pytest.fixture
def folder(tiny_images: TinyImages) -> Path:
    """Two classes of seven and three images."""
    return tiny_images(train=7, val=3)


def contents(path: Path | str) -> list[tuple[str, bytes]]:
    """Class and bytes of each image of both splits, in order."""
    found = list_images(str(path))
    return [
        (found.classes[label], split.store.read(place).tobytes())
        for split in (found.train, found.val)
        for place, label in enumerate(split.labels.tolist())
    ]


@pytest.mark.parametrize("options", [{}, {"plain": True, "strings": True}, {"strings": True}, {"files": 5}])
def test_parquet(
    options: dict[str, Any], folder: Path, tmp_path: Path, as_parquet: Rewrite, make_shards: MakeShards
) -> None:
    """Bytes or structs, numbers or names, one file or several: rows in the order of files, class names as declared."""
    make_shards(as_parquet(folder, **options), tmp_path / "shards")
    index = open_index(str(tmp_path / "shards"))
    assert index.classes == ("cat", "dog")
    assert contents(tmp_path / "shards") == contents(folder)
    files = options.get("files", 2)
    assert index.train.store.names[0] == f"data/train-00000-of-{files:05d}.parquet/0000000"
    assert index.channel_mean == open_index(str(folder), cache_dir=tmp_path / "cache").channel_mean


def test_parquet_numbers_without_names(
    folder: Path, tmp_path: Path, as_parquet: Rewrite, make_shards: MakeShards
) -> None:
    """The numbers are the class names then."""
    make_shards(as_parquet(folder, plain=True), tmp_path / "shards")
    assert open_index(str(tmp_path / "shards")).classes == ("0", "1")


@pytest.mark.parametrize("in_json", [False, True])
def test_tars(in_json: bool, folder: Path, tmp_path: Path, as_tars: Rewrite, make_shards: MakeShards) -> None:  # noqa: FBT001
    """Labels in .cls or .json, members in the order of the files."""
    make_shards(as_tars(folder, in_json=in_json), tmp_path / "shards")
    index = open_index(str(tmp_path / "shards"))
    assert index.classes == (("cat", "dog") if in_json else ("0", "1"))
    assert [image for _, image in contents(tmp_path / "shards")] == [image for _, image in contents(folder)]
    assert index.train.labels.tolist() == [0] * 7 + [1] * 7
    assert index.train.store.names[0] == "train/0000.tar/000000.png"


def test_shards_of_shards(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """Shards are a source too: other sizes and another order, the same data set."""
    make_shards(folder, tmp_path / "one")
    make_shards(tmp_path / "one", tmp_path / "two", seed=5, shard_size=20_000)
    assert open_index(str(tmp_path / "two")).fingerprint() == list_images(str(folder)).fingerprint()
    assert contents(tmp_path / "two") == contents(folder)


def upload(client: Any, folder: Path, prefix: str) -> None:
    """Put the files of a folder into the bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket="data", Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())


def test_s3_on_both_sides(
    folder: Path, tmp_path: Path, as_parquet: Rewrite, as_tars: Rewrite, make_shards: MakeShards, s3_client: Any
) -> None:
    """The shards of each layout are the same bytes whether source and target lie here or in a bucket."""
    for name, source in (("folder", folder), ("parquet", as_parquet(folder)), ("tars", as_tars(folder))):
        local = tmp_path / "local" / name
        make_shards(source, local)
        upload(s3_client, source, f"sources/{name}")
        outcome = make_shards(f"s3://data/sources/{name}", f"s3://data/shards/{name}")
        assert outcome.index == read_index(local)
        listed = s3_client.list_objects_v2(Bucket="data", Prefix=f"shards/{name}/")["Contents"]
        keys = {entry["Key"].rpartition("/")[2]: entry["Key"] for entry in listed}
        keys.pop("", None)
        assert sorted(keys) == sorted(path.name for path in local.iterdir())
        for base, key in keys.items():
            assert s3_client.get_object(Bucket="data", Key=key)["Body"].read() == (local / base).read_bytes()
        verify(f"s3://data/shards/{name}", threads=2, listener=lambda progress: None)
        assert make_shards(f"s3://data/sources/{name}", f"s3://data/shards/{name}").written == 0
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_object_is_named(folder: Path, make_shards: MakeShards, s3_client: Any) -> None:
    """By its name, with the remedy; the same command then writes that one alone."""
    make_shards(folder, "s3://data/damaged")
    key = "damaged/train-00001.arrow"
    content = bytearray(s3_client.get_object(Bucket="data", Key=key)["Body"].read())
    content[-100] ^= 4
    s3_client.put_object(Bucket="data", Key=key, Body=bytes(content))
    with pytest.raises(DataError, match=r"^DST: .*the checksum of train-00001.arrow is wrong.*; remedy: remove"):
        verify("s3://data/damaged", threads=1, listener=lambda progress: None)
    s3_client.delete_object(Bucket="data", Key=key)
    assert make_shards(folder, "s3://data/damaged").written == 1
    verify("s3://data/damaged", threads=1, listener=lambda progress: None)


@pytest.mark.parametrize("uri", ["s3://no-such-bucket/x", "s3://", "ftp://x/y", "~nosuchuser14/x"])
def test_a_place_of_no_known_kind_is_one_line(
    uri: str, folder: Path, tmp_path: Path, make_shards: MakeShards, s3_client: Any
) -> None:
    """As a source and as a target."""
    del s3_client
    assert_one_line("SRC", "", lambda: make_shards(uri, tmp_path / "x"))
    assert_one_line("DST", "", lambda: make_shards(folder, uri))


def assert_one_line(key: str, named: str, call: Callable[[], object]) -> None:
    """The call raises one line that names the key, what is wrong and a remedy."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{key}: ")
    assert named in message
    assert "; allowed: " in message
    assert "; remedy: " in message
    assert "\n" not in message


def write_table(path: Path, **columns: Any) -> None:
    """A Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


IMAGES, LABELS = [b"a", b"b"], [0, 1]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"image": IMAGES, "labels": LABELS}, "label is missing, there are: image, labels"),
        ({"img": IMAGES, "label": LABELS}, "image is missing"),
        ({"image": ["a.jpg", "b.jpg"], "label": LABELS}, "the column image holds string"),
        ({"image": [{"path": "a"}, {"path": "b"}], "label": LABELS}, "the column image holds struct"),
        ({"image": [b"a", None], "label": LABELS}, "row 1 has no image"),
        ({"image": [{"bytes": b"a", "path": "x"}, None], "label": LABELS}, "row 1 has no image"),
        ({"image": IMAGES, "label": [0, None]}, "row 1 has no label"),
        ({"image": IMAGES, "label": [0.5, 1.5]}, "labels as integers or strings"),
        ({"image": IMAGES, "label": [0, 2]}, "no training image has 1"),
        ({"image": IMAGES, "label": [0, 2**62]}, "no training image has 1"),
        ({"image": IMAGES, "label": [-1, 0]}, "one is -1"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "train has none"),
        ({"image": IMAGES, "label": ["a", "b"]}, "one split has numbers, the other names"),
        ({"image": IMAGES, "label": LABELS}, "it is empty"),
    ],
)
def test_wrong_parquet_is_one_line(
    columns: dict[str, Any], named: str, tmp_path: Path, make_shards: MakeShards
) -> None:
    """A missing column, paths for bytes, holes, labels with gaps, an empty split, images that don't decode."""
    write_table(tmp_path / "source" / "train-0.parquet", **columns)
    write_table(tmp_path / "source" / "val-0.parquet", image=[b"c"], label=[0])
    key = "data.path" if named == "it is empty" else "SRC"
    named = "" if named == "it is empty" else named
    assert_one_line(key, named, lambda: make_shards(tmp_path / "source", tmp_path / "shards"))


@pytest.mark.parametrize(("train", "val"), [([0, 1], [2]), (["x", "y"], ["z"])])
def test_val_has_no_class_of_its_own(
    train: list[object], val: list[object], tmp_path: Path, make_shards: MakeShards
) -> None:
    """A number or a name that no training image has."""
    write_table(tmp_path / "source" / "train-0.parquet", image=IMAGES, label=train)
    write_table(tmp_path / "source" / "val-0.parquet", image=[b"c"], label=val)
    assert_one_line("SRC", f"it lacks '{val[0]}'", lambda: make_shards(tmp_path / "source", tmp_path / "shards"))


def break_tar(root: Path, kind: str) -> None:
    """Make one tar wrong."""
    from tests.trainables.data.conftest import add_to_tar

    path = root / "train" / "0000.tar"
    if kind == "twice":
        add_to_tar(path, "000001", {"jpg": b"x"})
    elif kind == "no label":
        add_to_tar(path, "new", {"jpg": b"x"})
    elif kind == "mixed":
        add_to_tar(path, "new", {"jpg": b"x", "cls": b"cat"})
    elif kind == "two labels":
        add_to_tar(path, "000001", {"json": json.dumps({"label": 7}).encode()})
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:1700])
    else:
        path.write_bytes(b"no tar")


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("twice", "000001.jpg is the second of its key"),
        ("no label", "new.jpg has none"),
        ("mixed", "numbers and names are mixed"),
        ("two labels", "000001.json has another"),
        ("cut", "a whole, uncompressed tar file"),
        ("foreign", "a whole, uncompressed tar file"),
    ],
)
def test_wrong_tars_are_one_line(
    kind: str, named: str, folder: Path, tmp_path: Path, as_tars: Rewrite, make_shards: MakeShards
) -> None:
    """Duplicate keys, missing, contrary and mixed labels, files that are no tar: the file is named."""
    root = as_tars(folder)
    break_tar(root, kind)
    assert_one_line("SRC", named, lambda: make_shards(root, tmp_path / "shards"))
    assert_one_line("SRC", "train/0000.tar", lambda: make_shards(root, tmp_path / "shards"))


def test_a_source_of_no_layout_is_one_line(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """Missing, a file, empty, one split only, two kinds of files, a constant channel, a damaged Parquet file."""
    target = tmp_path / "shards"
    assert_one_line("SRC", "it is missing", lambda: make_shards(tmp_path / "nowhere", target))
    (tmp_path / "file").write_text("x")
    assert_one_line("SRC", "it is no folder", lambda: make_shards(tmp_path / "file", target))
    (tmp_path / "empty").mkdir()
    assert_one_line("SRC", "there is no train", lambda: make_shards(tmp_path / "empty", target))
    write_table(tmp_path / "half" / "train-0.parquet", image=IMAGES, label=LABELS)
    assert_one_line("SRC", "no .parquet file is of val", lambda: make_shards(tmp_path / "half", target))
    (tmp_path / "half" / "val-0.tar").write_bytes(b"")
    assert_one_line("SRC", "Parquet files and tar shards", lambda: make_shards(tmp_path / "half", target))
    (tmp_path / "half" / "val-0.tar").rename(tmp_path / "half" / "val-0.parquet")
    assert_one_line("SRC", "a whole Parquet file", lambda: make_shards(tmp_path / "half", target))
    shutil.rmtree(folder / "train" / "dog")
    assert_one_line("data.path", "it lacks 'dog'", lambda: make_shards(folder, target))
    assert not target.exists()


@pytest.mark.parametrize("seed", range(12))
def test_damaged_parquet_is_one_line_or_none(
    seed: int, folder: Path, tmp_path: Path, as_parquet: Rewrite, make_shards: MakeShards
) -> None:
    """Bits flipped anywhere in a file: its name and a remedy, or shards; never another error, never DST to blame."""
    path = as_parquet(folder) / "data" / "train-00000-of-00002.parquet"
    content = bytearray(path.read_bytes())
    rng = generator("parquet", seed)
    start = int(len(content) * (0.9 if seed % 2 else 0.0))
    for place in rng.integers(start, len(content), size=4).tolist():
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    try:
        make_shards(tmp_path / "parquet", tmp_path / "shards")
    except DataError as error:
        message = str(error)
        assert message.startswith(("SRC: ", "data.path: "))  # either outcome is right
        assert "\n" not in message  # as above
    else:
        assert len(open_index(str(tmp_path / "shards")).train) == 14


def test_names_must_be_text(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """A file name that is no UTF-8 is an error, as Arrow holds text."""
    path = folder / "train" / "cat" / "000.png"
    path.rename(Path(str(path.parent) + "/\udcff.png"))
    assert_one_line("SRC", r"\udcff.png", lambda: make_shards(folder, tmp_path / "shards"))


def test_images_may_be_empty(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """An empty file in val/ stays one, in its place."""
    (folder / "val" / "cat" / "001.png").write_bytes(b"")
    make_shards(folder, tmp_path / "shards")
    assert contents(tmp_path / "shards") == contents(folder)
    assert np.array_equal(list_images(str(tmp_path / "shards")).val.store.read(1), [])

"""Every format that a log comes in, damaged ones too."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.errors import DataError
from trainables.runlog.files import read_file
from trainables.runlog.table import Table

LOSSES = [2.5, 2.25, math.nan, 2.0]
RECORDS = [{"step": step, "loss": loss} for step, loss in enumerate(LOSSES)]


def numbers(table: Table, name: str = "loss") -> list[str]:
    """A column's values, as text since nan is not itself."""
    return [f"{number:g}" for number in table.columns[name].numbers]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with this content."""
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


CSV = "step,loss\n0,2.5\n1,2.25\n2,nan\n3,2.0\n"
LINES = "\n".join(json.dumps(record) for record in RECORDS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", CSV),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("utf16.csv", CSV.encode("utf-16")),
        ("german.csv", CSV.replace(",", ";").replace(".", ",")),
        ("log.tsv", CSV.replace(",", "\t")),
        ("spaces.txt", CSV.replace(",", ", ").replace("\n", "\r\n")),
        ("comment.csv", "# run of Monday\n" + CSV),
        ("log.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("log.jsonl", LINES),
        ("log.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("cut.jsonl", LINES + '\n{"step": 4, "lo'),
        ("strings.jsonl", LINES.replace("NaN", '"NaN"')),
        ("list.json", json.dumps(RECORDS)),
        ("trainer_state.json", json.dumps({"epoch": 1.0, "log_history": RECORDS})),
        ("history.json", json.dumps({"history": {"step": [0, 1, 2, 3], "loss": LOSSES}})),
        ("keras.json", json.dumps({"step": [0, 1, 2, 3], "loss": LOSSES})),
    ],
)
def test_text_in_every_dialect_is_the_same_table(tmp_path: Path, name: str, content: str | bytes) -> None:
    """Delimiters, byte order marks, decimal commas, gzip, JSON in its layouts: the same four losses, nan among them."""
    table = read_file(written(tmp_path, name, content))
    assert numbers(table) == ["2.5", "2.25", "nan", "2"]
    assert numbers(table, "step") == ["0", "1", "2", "3"]


def test_parquet_keeps_nan_and_drops_null(tmp_path: Path) -> None:
    """A null is no value, a nan is one; run names may be a dictionary, and nested columns are left out."""
    columns = {
        "run": pa.array(["a", "a", "b", "b"]).dictionary_encode(),
        "step": pa.array([0, 1, 0, 1]),
        "loss": pa.array([2.5, None, math.nan, 2.0], pa.float32()),
        "samples": pa.array([[1], [2], [3], [4]]),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.bin")
    table = read_file(tmp_path / "log.bin")
    assert table.columns["loss"].rows.tolist() == [0, 2, 3]
    assert numbers(table) == ["2.5", "nan", "2"]
    assert table.columns["run"].texts == ("a", "a", "b", "b")
    assert "samples" not in table.columns


def test_rows_with_only_some_keys_and_nested_ones(tmp_path: Path) -> None:
    """Rows of training and of evaluation alternate; a nested key is spelled with a slash."""
    text = '{"step": 1, "train": {"loss": 2.0}}\n{"step": 1, "eval": {"loss": 3.0, "acc": null}}\n'
    table = read_file(written(tmp_path, "log.jsonl", text))
    assert table.columns["train/loss"].rows.tolist() == [0]
    assert table.columns["eval/loss"].rows.tolist() == [1]
    assert table.height == 2
    assert "eval/acc" not in table.columns


def test_empty_cells_are_no_values(tmp_path: Path) -> None:
    """Lightning's CSV leaves most cells of a row empty."""
    text = "epoch,step,train_loss,val_loss\n0,0,2.5,\n0,1,2.25,\n0,1,,2.75\n"
    table = read_file(written(tmp_path, "metrics.csv", text))
    assert table.columns["train_loss"].rows.tolist() == [0, 1]
    assert table.columns["val_loss"].rows.tolist() == [2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", "", "this one is empty"),
        ("image.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "CSV, JSON lines"),
        ("cut.csv.gz", gzip.compress(CSV.encode() * 99, mtime=0)[:60], "a file that can be read"),
        ("half.parquet", b"PAR1" + b"\x15" * 50, "a whole Parquet file"),
        ("broken.jsonl", '{"loss": 1}\n{"loss": \n{"loss": 2}\n', "line 2"),
        ("numbers.json", "[1, 2, 3]", "JSON objects"),
    ],
)
def test_what_is_no_log_is_said_in_one_line(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    """The error names the file, what is allowed, and the remedy."""
    with pytest.raises(DataError) as caught:
        read_file(written(tmp_path, name, content))
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert "remedy:" in str(caught.value)
    assert "\n" not in str(caught.value)

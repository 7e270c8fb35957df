"""`epoch14 diagnose` from the command line: event files by tensorboardX, other logs in their libraries' layouts."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric
from tensorboardX import SummaryWriter

from infra.tracking import default_tracking_uri, open_client
from pipelines.cli import main

Row = dict[str, Any]
STEPS = 300


def rows(*, jump: bool = True) -> list[Row]:
    """A run of 10 classes; with `jump` the rate rises tenfold at step 200, and the loss with it."""
    found = []
    for step in range(STEPS):
        ill = jump and step >= 200
        loss = 6.0 if ill else 0.3 + 2.0 * math.exp(-step / 40) + 0.01 * math.sin(step * 7)
        found.append({"step": step, "train_loss": loss, "lr": 1.0 if ill else 0.1})
    return found


def write_csv(file: Path, table: list[Row]) -> Path:
    """A CSV of rows of which each has only some of the keys."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(dict.fromkeys(key for row in table for key in row)))
        writer.writeheader()
        writer.writerows(table)
    return file


def told(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> list[Row]:
    """The objects that --json prints."""
    assert main(["diagnose", *map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def lightning(folder: Path) -> Path:
    """CSVLogger's metrics.csv: rows of training, of the rate's monitor, of validation, most cells empty."""
    table = []
    for row in rows():
        table.append({"epoch": row["step"] // 100, "step": row["step"], "lr-SGD": row["lr"]})
        table.append({"epoch": row["step"] // 100, "step": row["step"], "train_loss_step": row["train_loss"]})
        if row["step"] % 100 == 99:
            table.append({"epoch": row["step"] // 100, "step": row["step"], "val_loss": row["train_loss"]})
    return write_csv(folder / "metrics.csv", table)


def transformers(folder: Path) -> Path:
    """The trainer_state.json of Hugging Face's Trainer, in its layout."""
    history = [
        {"epoch": k / 100, "grad_norm": 1.0, "learning_rate": row["lr"], "loss": row["train_loss"], "step": k}
        for k, row in enumerate(rows())
    ]
    history.append({"epoch": 3.0, "step": STEPS, "total_flos": 0.0, "train_loss": 1.0, "train_runtime": 5.0})
    file = folder / "trainer_state.json"
    file.write_text(json.dumps({"best_metric": None, "log_history": history}), encoding="utf-8")
    return file


def event_folder(folder: Path) -> Path:
    """A folder of TensorBoard's."""
    writer = SummaryWriter(str(folder / "tb"))
    for row in rows():
        writer.add_scalar("train/loss", row["train_loss"], row["step"])
        writer.add_scalar("train/lr", row["lr"], row["step"])
    writer.close()
    return folder / "tb"


def json_lines(folder: Path) -> Path:
    """A line a step."""
    file = folder / "log.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows()), encoding="utf-8")
    return file


@pytest.mark.parametrize("write", [lightning, transformers, event_folder, json_lines])
def test_the_same_run_is_the_same_finding_in_each_format(
    write: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rate that jumps at step 200 is found in each library's layout."""
    [run] = told(capfd, write(tmp_path), "--num-classes", "10")
    assert run["verdict"] == "lr_jump"
    assert run["symptoms"][0]["step"] == 200
    assert run["causes"][0]["group"] == "learning_rate"
    assert "from 0.1 to 1, at step 200" in run["causes"][0]["evidence"]


def test_a_log_of_epochs_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Timm's summary.csv and Keras's CSVLogger have a row an epoch, with accuracies in percent or shares."""
    table = [
        {"epoch": k, "train_loss": 0.2 + 2 * 0.9**k, "eval_loss": 7.0, "eval_top1": 10.0 + 0.01 * k, "lr": 0.1}
        for k in range(90)
    ]
    [run] = told(capfd, write_csv(tmp_path / "summary.csv", table), "--num-classes", "10")
    assert [symptom["kind"] for symptom in run["symptoms"]] == ["eval_gap"]
    assert {cause["cause"] for cause in run["causes"]} == {"bn_stats_corrupt", "train_eval_mismatch"}
    assert run["verdict"] == "unexplained"


def test_a_run_column_holds_several_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One object a run; the text begins with a table of all, and tells of the ill ones."""
    table = [{"run": f"[b]{jump}", **row} for jump in (True, False) for row in rows(jump=jump)]
    file = write_csv(tmp_path / "two.csv", table)
    ill, well = told(capfd, file)
    assert (ill["run"], well["run"]) == ("[b]True", "[b]False")
    assert (well["symptoms"], well["causes"], well["verdict"]) == ([], [], "unexplained")
    assert main(["diagnose", str(file)]) == 0
    text = capfd.readouterr().out
    assert "2 runs, 1 with symptoms" in text
    assert text.index("[b]False") < text.index("timeline")
    assert text.count("timeline") == 1


def test_the_text_tells_where_what_why_and_what_is_unknown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Curve with a mark, timeline, candidates with numbers and the replay that would settle each, what a log lacks."""
    assert main(["diagnose", str(json_lines(tmp_path))]) == 0
    text = capfd.readouterr().out
    for part in ("█", "▲", "step 200 to 243: spike", "verdict  lr_jump", "from 0.1 to 1, at step 200"):
        assert part in text
    assert "a replay that would settle it: the same batches with the rate of before the rise held" in text
    assert "not in the log: grad_norm" in text
    assert "nothing was replayed" in text


def test_a_healthy_log_is_said_to_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No symptom, no verdict, exit code 0."""
    assert main(["diagnose", str(write_csv(tmp_path / "well.csv", rows(jump=False)))]) == 0
    text = capfd.readouterr().out
    assert "no symptom" in text
    assert "verdict" not in text


def test_columns_are_named_by_hand(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--column` maps names that nobody could guess."""
    table = [{"n": row["step"], "objective": row["train_loss"], "eta": row["lr"]} for row in rows()]
    file = write_csv(tmp_path / "own.csv", table)
    options = ["--column", "step=n", "--column", "loss=objective", "--column", "learning_rate=eta"]
    [run] = told(capfd, file, *options)
    assert run["verdict"] == "lr_jump"


def test_an_mlflow_run_is_read_by_its_id(tmp_path: Path, empty_store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`runs:/ID` and --storage name a run of anyone's."""
    shutil.copy(empty_store, tmp_path)
    client = open_client(default_tracking_uri(tmp_path))
    run = client.create_run("0", run_name="mine")
    metrics = [Metric(key, row[key], row["step"], row["step"]) for row in rows() for key in ("train_loss", "lr")]
    client.log_batch(run.info.run_id, metrics=metrics)
    [found] = told(capfd, f"runs:/{run.info.run_id}", "--storage", tmp_path)
    assert (found["run"], found["verdict"]) == ("mine", "lr_jump")


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("step,loss\n", [], "this one has none"),
        ("step,perplexity\n1,2\n", [], "--column loss=COLUMN"),
        ("It was a dark night.\nThe loss was high.\n", [], "one that holds a loss"),
        ("step,loss\n1,2\n", ["--column", "loss"], "NAME=COLUMN"),
        ("step,loss\n1,2\n", ["--column", "loss=los"], "'los'"),
        ("step,loss\n1,2\n", ["--num-classes", "1"], "epoch14 diagnose --help"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str, options: list[str], said: str
) -> None:
    """No rows, no loss, only text, wrong options: what was found and what helps."""
    file = tmp_path / "log.csv"
    file.write_text(content, encoding="utf-8")
    assert main(["diagnose", str(file), *options]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert said in line


def test_what_is_not_there_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder with no log or with two, a run of a store that isn't there."""
    (tmp_path / "none").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "two" / name).write_text("step,loss\n1,2\n", encoding="utf-8")
    for word, said in (("none.csv", "no such file"), ("none", "no log"), ("two", "a.csv, b.csv")):
        assert main(["diagnose", str(tmp_path / word)]) == 2
        assert said in capfd.readouterr().err
    assert main(["diagnose", "a1b2c_00000", "--storage", str(tmp_path)]) == 2
    assert "run a sweep first" in capfd.readouterr().err
    assert main(["diagnose", str(lightning(tmp_path).parent / "two" / "a.csv")]) == 0


def test_a_folder_of_one_log_is_that_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Lightning's version_0 has metrics.csv beside hparams.yaml."""
    lightning(tmp_path)
    (tmp_path / "hparams.yaml").write_text("lr: 0.1\n", encoding="utf-8")
    [run] = told(capfd, tmp_path)
    assert run["verdict"] == "lr_jump"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_odd_logs_are_read_or_refused_but_never_crash(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """150 tables of odd columns with nan, infinities, text, huge and negative numbers and gaps: exit code 0 or 2."""
    rng = random.Random(suffix)  # noqa: S311 - test data
    names = ["step", "epoch", "val_loss", "lr", "run", "tag", "value", "grad_norm", "val_acc", "loss_scale", "time"]
    odd = ["nan", "inf", "-inf", "", "abc", "-3", "1e308", "1e400", "2,5", "null", "9" * 30, "True", " 7 "]
    codes = []
    for _ in range(150):
        columns = ["loss", *rng.sample(names, rng.randint(0, 6))]
        table = [
            {key: rng.choice(odd) if rng.random() < 0.3 else f"{place + rng.random():.3f}" for key in columns}
            for place in range(rng.choice([1, 2, 5, 60]))
        ]
        file = tmp_path / f"log{suffix}"
        if suffix == ".csv":
            write_csv(file, table)
        else:
            file.write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
        codes.append(main(["diagnose", str(file), "--num-classes", "10", *rng.sample(["--json"], rng.randint(0, 1))]))
        capfd.readouterr()
    assert set(codes) <= {0, 2}
    assert codes.count(0) > 30

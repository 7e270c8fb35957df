"""Whatever a user gets wrong ends in one line that names the key, the value, what is allowed and the remedy."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pipelines.cli import main

if TYPE_CHECKING:
    from tests.conftest import RayHere

SWEEP = """\
name: malformed
trial:
  max_steps: 4
  global_batch_size: 8
  model: {name: resnet18, width: 0.5, norm: gn}
  data: {image_size: 16}
  schedule: {kind: constant}
"""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mistake:
    """A sweep file with something wrong, or wrong options, and what the one line must name."""

    says: tuple[str, ...]
    """The key and the value, and what is allowed or the remedy where it is worth pinning."""
    yaml: str = SWEEP
    options: tuple[str, ...] = field(default=())


def with_line(line: str) -> str:
    """The sweep file with one more line."""
    return f"{SWEEP}{line}\n"


def trial(section: str, line: str) -> str:
    """The sweep file with one more key in a section of its trial, or in the trial itself."""
    return f"name: malformed\ntrial:\n  {section}: {line}\n" if section else f"name: malformed\ntrial:\n  {line}\n"


MISTAKES = {
    "unknown sweep key": Mistake(("storge", "storage"), with_line("storge: outputs")),
    "unknown trial key": Mistake(("optim.learning_rate", "0.1", "momentum"), trial("optim", "{learning_rate: 0.1}")),
    "misspelt trial key": Mistake(("max_step", "write 'max_steps'"), trial("", "max_step: 5")),
    "unknown section of --set": Mistake(("optimizer.lr", "optim"), options=("--set", "optimizer.lr=0.1")),
    "unknown key of --set": Mistake(("optim.lrr", "optim.lr"), options=("--set", "optim.lrr=0.1")),
    "--set without =": Mistake(("--set", "optim.lr", "key=value"), options=("--set", "optim.lr")),
    "--set without a key": Mistake(("--set", "=0.1", "key=value"), options=("--set", "=0.1")),
    "--set with broken YAML": Mistake(("schedule", "valid YAML"), options=("--set", "schedule={kind: multi_step")),
    "text for a number": Mistake(("optim.lr", "'fast'", "valid number"), options=("--set", "optim.lr=fast")),
    "a number for a section": Mistake(("optim", "3"), options=("--set", "optim=3")),
    "null where a number is needed": Mistake(("max_steps", "None"), options=("--set", "max_steps=null")),
    "a rate of zero": Mistake(("optim.lr", "0", "greater than 0"), options=("--set", "optim.lr=0")),
    "a rate that is no number": Mistake(("optim.lr", "nan"), options=("--set", "optim.lr=.nan")),
    "negative steps": Mistake(("max_steps", "-5", "greater than or equal to 1"), options=("--set", "max_steps=-5")),
    "momentum above 1": Mistake(("optim.momentum", "1.5", "less than 1"), options=("--set", "optim.momentum=1.5")),
    "unknown norm": Mistake(("model.norm", "'layer'", "'bn'", "'gn'"), options=("--set", "model.norm=layer")),
    "unknown schedule": Mistake(("schedule.kind", "'poly'", "'cosine'"), trial("schedule", "{kind: poly}")),
    "unknown normalization": Mistake(
        ("data.normalization", "'mean'", "'per_channel'"), trial("data", "{normalization: mean}")
    ),
    "warm-up longer than the run": Mistake(
        ("schedule.warmup_steps", "50", "max_steps"),
        options=("--set", "schedule={kind: cosine_warmup, warmup_steps: 50}"),
    ),
    "milestones that fall": Mistake(
        ("milestones", "ascending"), options=("--set", "schedule={kind: multi_step, milestones: [3, 1]}")
    ),
    "unknown axis": Mistake(("space", "optim.rate"), with_line("space: {optim.rate: [0.1, 0.2]}")),
    "empty axis": Mistake(("space.optim.lr", "[]"), with_line("space: {optim.lr: []}")),
    "axis that is no list": Mistake(("space.optim.lr", "0.1"), with_line("space: {optim.lr: 0.1}")),
    "axis value out of range": Mistake(("optim.lr", "-1"), with_line("space: {optim.lr: [0.1, -1]}")),
    "axis twice": Mistake(("optim.lr", "twice"), with_line("space:\n  optim.lr: [0.1]\n  optim.lr: [0.2]")),
    "range upside down": Mistake(
        ("space.optim.lr", "[1.0, 0.1]"),
        with_line("space: {optim.lr: {uniform: [1.0, 0.1]}}\nsearch: {kind: random, num_trials: 2}"),
    ),
    "unknown range": Mistake(
        ("space.optim.lr", "normal", "loguniform"),
        with_line("space: {optim.lr: {normal: [0.1, 1.0]}}\nsearch: {kind: random, num_trials: 2}"),
    ),
    "a range in a grid": Mistake(
        ("space.optim.lr", "grid", "random"), with_line("space: {optim.lr: {loguniform: [0.01, 1.0]}}")
    ),
    "unknown search": Mistake(("search.kind", "'bayes'", "'optuna'"), with_line("search: {kind: bayes}")),
    "random without a number of trials": Mistake(
        ("search.num_trials", "None", "random"), with_line("search: {kind: random}")
    ),
    "no trials": Mistake(("search.num_trials", "0"), with_line("search: {kind: random, num_trials: 0}")),
    "no workers": Mistake(("resources.workers", "0"), with_line("resources: {workers: 0}")),
    "batch that workers can't share": Mistake(
        ("global_batch_size", "8", "workers"), with_line("resources: {workers: 9, cpus_per_worker: 1}")
    ),
    "pairs that workers can't share": Mistake(
        ("global_batch_size", "8", "mixup", "multiple of 6"),
        with_line("resources: {workers: 3, cpus_per_worker: 1}"),
        options=("--set", "data={image_size: 16, mixup_alpha: 0.2}"),
    ),
    "fault without a module": Mistake(
        ("faults", "'spike'"), trial("faults", "[{use: spike}]"), options=("--set", "max_steps=4")
    ),
    "not YAML": Mistake(("valid YAML",), "name: [unclosed\ntrial: {"),
    "not a mapping": Mistake(("mapping",), "- optim.lr\n- model.norm\n"),
    "nothing": Mistake(("mapping",), ""),
}
"""What the config alone shows to be wrong."""

LATE_MISTAKES = {
    "fault of an unknown module": Mistake(
        ("faults", "nowhere.faults:Spike"), options=("--set", "faults=[{use: 'nowhere.faults:Spike'}]")
    ),
    "fault of an unknown name": Mistake(
        ("faults", "trainables.faults:NoSuch"), options=("--set", "faults=[{use: 'trainables.faults:NoSuch'}]")
    ),
    "fault with unknown parameters": Mistake(
        ("faults", "strenght"),
        options=("--set", "faults=[{use: 'trainables.faults:learning_rate_factor', params: {strenght: 2}}]"),
    ),
    "batch larger than the data set": Mistake(
        ("global_batch_size", "100000"), options=("--set", "global_batch_size=100000", "--set", "optim.lr=0.1")
    ),
    "data folder that is not there": Mistake(
        ("data.path", "no/such/folder"), options=("--set", "data.path=no/such/folder")
    ),
    "tracking address that is none": Mistake(
        ("tracking.uri", "'ftp://somewhere'", "sqlite:///"), options=("--set", "tracking.uri=ftp://somewhere")
    ),
    "Ray that is not there": Mistake(("--address", "127.0.0.1:1"), options=("--address", "127.0.0.1:1")),
    "sweep to resume that is not there": Mistake(("resume", "no-such-sweep"), options=("--resume", "no-such-sweep")),
}
"""What shows only when the sweep looks at its data, its faults, its store or its Ray."""


def assert_one_line(code: int, stderr: str, says: tuple[str, ...]) -> None:
    """Exit code 2 and one line on stderr with all of `says`, what is allowed, and a remedy."""
    assert code == 2, stderr
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("epoch14: error: ")
    missing = [word for word in (*says, "remedy: ") if word not in lines[0]]
    assert missing == [], lines[0]
    assert "allowed" in lines[0] or "must" in lines[0]


@pytest.fixture
def run(
    tmp_path: Path,
    digits_cache: Path,
    ray_here: RayHere,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., None]:
    """Run `epoch14 sweep` in this process, without a Ray in it, on a file with that text, and look at its one line."""
    ray_here.off()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))

    def check(mistake: Mistake) -> None:
        (tmp_path / "sweep.yaml").write_text(mistake.yaml, encoding="utf-8")
        code = main(["sweep", "sweep.yaml", *mistake.options])
        captured = capfd.readouterr()
        assert_one_line(code, captured.err, mistake.says)
        assert captured.out == ""

    return check


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_in_the_config(mistake: Mistake, run: Callable[..., None], tmp_path: Path) -> None:
    """A config that is wrong in itself ends in one line, and nothing is written."""
    run(mistake)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize("mistake", LATE_MISTAKES.values(), ids=LATE_MISTAKES.keys())
def test_mistake_about_the_world(mistake: Mistake, run: Callable[..., None]) -> None:
    """A config that doesn't fit the data, the faults, the store or the cluster ends in one line; no trial starts."""
    run(mistake)


def test_data_folder_without_validation(run: Callable[..., None], tmp_path: Path) -> None:
    """A data folder that lacks val/ ends in one line that names the folder and what belongs there."""
    (tmp_path / "photos" / "train" / "cat").mkdir(parents=True)
    run(Mistake(("data.path", "photos", "val/"), options=("--set", "data.path=photos")))


def test_tracking_server_that_does_not_answer(run: Callable[..., None]) -> None:
    """An address where nothing listens ends in one line that says how to go on without a server."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        run(Mistake(("tracking.uri", uri), options=("--set", f"tracking.uri={uri}")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("options", [("--set", "resources.gpus_per_worker=1"), ("--set", "device=cuda")])
def test_gpu_where_there_is_none(run: Callable[..., None], options: tuple[str, ...]) -> None:
    """Asking for a GPU on a machine without one ends in one line instead of a trial that waits for ever."""
    run(Mistake((options[1].split("=")[0],), options=options))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep", "first_lihgt"], ("preset", "'first_lihgt'", "first_light")),
        (["sweep", "no/such/file.yaml"], ("preset", "'no/such/file.yaml'", "YAML file")),
        (["config", "."], ("preset", "'.'", "YAML file")),
        (["ui", "--storage", "nothing-here"], ("tracking.uri", "sqlite:///", "a sweep")),
        (["explain", "trial", "--storage", "nothing-here"], ("tracking.uri", "sqlite:///", "a sweep")),
        (["submit", "first_light", "--address", "http://127.0.0.1:1"], ("--address", "'http://127.0.0.1:1'", "8265")),
        (["submit", "first_light", "--address", "127.0.0.1:8265"], ("--address", "'127.0.0.1:8265'", "http://")),
        (["submit", "first_light", "--address", "ray://host:10001"], ("--address", "'ray://host:10001'", "http://")),
    ],
)
def test_mistake_on_the_command_line(
    arguments: list[str],
    says: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A preset, file, store or cluster that is not there ends in one line, for every command."""
    monkeypatch.chdir(tmp_path)
    code = main(arguments)
    assert_one_line(code, capfd.readouterr().err, says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["swep"], ("'swep'", "'sweep'", "epoch14 --help")),
        (["sweep"], ("PRESET_OR_YAML", "epoch14 sweep --help")),
        (["sweep", "first_light", "--lokal"], ("--lokal", "epoch14 sweep --help")),
        (["ui", "--port", "high"], ("--port", "epoch14 ui --help")),
        (["submit", "first_light"], ("--address", "epoch14 submit --help")),
    ],
)
def test_mistake_in_the_syntax(arguments: list[str], says: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    """An unknown command or option, or a missing argument, ends in one line that says where help is."""
    assert main(arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("epoch14: error: ")
    assert [word for word in (*says, "remedy: see ") if word not in lines[0]] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "model.norm=layer"), ("model.norm", "'layer'")),
        (("--set", "data.path=no/such/folder"), ("data.path", "no/such/folder")),
        (("--set", "tracking.uri=http://127.0.0.1:1"), ("tracking.uri", "http://127.0.0.1:1")),
    ],
)
def test_mistake_in_a_process_of_its_own(
    options: tuple[str, ...], says: tuple[str, ...], tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed command, started by a shell, ends in the same single line: no log, no warning, no traceback."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    command = [sys.executable, "-m", "pipelines", "sweep", str(tmp_path / "sweep.yaml"), *options]
    command += ["--set", f"storage={tmp_path}"]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
    assert_one_line(ended.returncode, ended.stderr, says)
    assert ended.stdout == ""

"""The `epoch14` command: its surface, its exit codes, Ctrl-C on a terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.core
import typer.main

from pipelines.cli import app, main
from pipelines.config import SweepConfig
from tests.pipelines.progress.screen import CTRL_C, Terminal, seen

if TYPE_CHECKING:
    from tests.conftest import RayHere

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """\
name: tiny
trial:
  max_steps: 3
  global_batch_size: 8
  threads: 1
  eval_every: 3
  report_every: 1
  model: {name: resnet18, width: 0.5, norm: gn}
  data: {image_size: 16}
  precision: {channels_last: false}
  schedule: {kind: constant}
  diagnosis: {enabled: false}
resources: {cpus_per_worker: 1}
"""

BROKEN_FAULT = """\
def broken(recipe):
    def change(ingredients):
        raise RuntimeError("out of order at step 1")
    return change
"""

HELD_FAULT = """\
import time
from pathlib import Path

def held(recipe):
    def change(ingredients):
        while Path({file!r}).exists():
            time.sleep(0.05)
        return ingredients
    return change
"""


@pytest.fixture
def tiny(tmp_path: Path, digits_cache: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of one short trial on the digits, in a folder with an empty store that is also the current one."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    return file


def test_surface_is_frozen() -> None:
    """These commands with these arguments are what people's scripts rely on."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    job = group.commands["job"]
    assert isinstance(job, typer.core.TyperGroup)
    commands = {**group.commands, **{f"job {name}": command for name, command in job.commands.items()}}
    surface = {name: [" ".join(parameter.opts) for parameter in command.params] for name, command in commands.items()}
    assert surface == {
        "sweep": ["preset", "--set", "--fault", "--local", "--address", "--resume"],
        "train": ["target", "--set", "--fault", "--local", "--address", "--storage", "--uri"],
        "ui": ["--storage", "--uri", "--port"],
        "explain": ["trial", "--json", "--storage", "--uri"],
        "compare": ["a", "b", "--json", "--storage", "--uri"],
        "report": ["sweep", "--out", "--open", "--storage", "--uri"],
        "diagnose": ["log", "--json", "--num-classes", "--column", "--storage", "--uri"],
        "doctor": [
            *("path", "--normalization", "--image-size", "--limit", "--html"),
            *("--config", "--set", "--address", "--json", "--fail-on"),
        ],
        "config": ["preset", "--set"],
        "bundle": ["trial", "out", "--rerun", "--storage", "--uri"],
        "replay": ["folder", "--data"],
        "submit": ["preset", "--address", "--set", "--resume"],
        "job": [],
        "job status": ["job", "--address"],
        "job logs": ["job", "--follow", "--address"],
        "job stop": ["job", "--address"],
        "shard": ["source", "target", "--seed", "--shard-size", "--reencode", "--threads", "--verify"],
        "pipeline": ["out", "--image", "--gpus", "--secret", "--claim"],
        "mlflow-server": ["--backend", "--artifacts", "--host", "--port", "--allowed-host", "--workers"],
    }


@pytest.mark.parametrize("arguments", [[], ["--help"], ["sweep", "--help"], ["submit", "--help"]])
def test_help_loads_nothing_slow(arguments: list[str]) -> None:
    """Help comes without torch, ray and mlflow, which take seconds to import, and exits with 0."""
    code = (
        "import sys; from pipelines.cli import main; code = main(sys.argv[1:]); "
        "slow = {'torch', 'ray', 'mlflow'} & set(sys.modules); assert not slow, slow; sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage: epoch14" in ended.stdout


def test_config_prints_what_the_sweep_will_use(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`epoch14 config` prints YAML with every default and override in it; read back, it is the same sweep."""
    assert main(["config", str(tiny), "--set", "optim.lr=0.25", "--set", "search.max_concurrent=2"]) == 0
    printed = tiny.with_name("printed.yaml")
    printed.write_text(capfd.readouterr().out, encoding="utf-8")
    again = SweepConfig.load(str(printed))
    assert again.trial["optim"]["lr"] == 0.25
    assert again.search.max_concurrent == 2
    assert main(["config", str(printed)]) == 0
    assert capfd.readouterr().out == printed.read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "pipelines" / "presets").glob("*.yaml")))
def test_every_preset_resolves(preset: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`epoch14 config` takes every preset that is installed."""
    assert main(["config", preset]) == 0
    assert capfd.readouterr().out.startswith("name: ")


def test_sweep_ends_with_its_table_and_its_records(
    tiny: Path, ray_here: RayHere, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sweep whose trials finish exits with 0, shows the table and says where its records are."""
    ray_here.local()
    assert main(["sweep", str(tiny), "--local"]) == 0
    shown = capfd.readouterr().out
    assert "val top-1" in shown
    assert f"MLflow: sqlite:///{tiny.parent}/outputs/mlflow.db" in shown.replace("\n", "")


def test_sweep_with_a_failed_trial_exits_with_1(
    tiny: Path, ray_here: RayHere, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sweep one of whose trials raised shows its table and the error on one line, and exits with 1."""
    ray_here.local()
    tiny.with_name("broken.py").write_text(BROKEN_FAULT, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tiny.parent))
    assert main(["sweep", str(tiny), "--local", "--set", "faults=[{use: 'broken:broken', start_step: 1}]"]) == 1
    captured = capfd.readouterr()
    assert "1 failed with an error" in captured.out
    assert "out of order at step 1" in captured.out
    assert "Traceback" not in captured.out + captured.err


def test_ctrl_c_on_a_terminal(
    tiny: Path, ray_here: RayHere, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A table shows the trials in place. One Ctrl-C ends the sweep with 130 and a command, a second one at once, though
    a trial's step has no end; that command finishes the sweep.
    """
    hold = tiny.with_name("hold")
    tiny.with_name("held.py").write_text(HELD_FAULT.format(file=str(hold)), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tiny.parent))
    command = ["epoch14", "sweep", str(tiny), "--set", "max_steps=40", "--set", "space={seed: [1, 2]}"]
    command += ["--set", "faults=[{use: 'held:held', start_step: 1}]"]
    for times in (1, 2):
        terminal = start_on_terminal(command, tiny.parent)
        table = terminal.wait_for(lambda lines: any(" training " in line for line in lines))
        assert sum("symptom" in line for line in table) == 1
        if times == 2:
            hold.touch()
        terminal.press(CTRL_C)
        if times == 2:
            terminal.wait_for(lambda lines: lines[-1].startswith("stopping") or lines[-2].startswith("stopping"))
            terminal.press(CTRL_C)
        assert terminal.wait() == 130
        *shown, last, _ = seen(terminal.output)
        assert last.startswith("epoch14: interrupted: go on with: epoch14 sweep ")
        assert "Traceback" not in terminal.output
        # After a second one no table of what was found comes.
        assert any("did not come to an end" in line for line in shown) == (times == 1)
        command = shlex.split(last.partition("go on with: ")[2])
        assert command[-2] == "--resume"
    # No step of a trial that was given the time to end is lost, though checkpoint.every is far off.
    assert list(tiny.parent.rglob("checkpoints/step-*/manifest.json"))
    hold.unlink()
    ray_here.with_actors()
    assert main(command[1:]) == 0
    assert "the best of 2" in capfd.readouterr().out


def start_on_terminal(command: list[str], folder: Path) -> Terminal:
    """The command, on a terminal that knows colours."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "TERM": "xterm-256color",
        "PYTHONUTF8": "1",
    }
    return Terminal([sys.executable, "-m", "pipelines", *command[1:]], folder, environment)

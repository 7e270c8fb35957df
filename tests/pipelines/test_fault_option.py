"""`--fault` is the `faults` of the config, and what it can't be is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.config import SweepConfig
from pipelines.fault_option import with_faults
from trainables.config import TrialConfig
from trainables.errors import ConfigError

JUMP = "trainables.faults:learning_rate_factor start_step=40 stop_step=60 factor=2e1"


def test_a_fault_becomes_the_trials(tmp_path: Path) -> None:
    """Span and parameters are told apart, numbers are numbers, several faults stand in their order."""
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ntrial: {faults: [{use: 'a:b'}]}\n")
    changes = with_faults(["optim.lr=0.2"], [JUMP, "trainables.faults:shuffled_labels"])
    trial = TrialConfig.parse(SweepConfig.load(str(file), changes).trial)
    jump, labels = trial.faults
    assert (jump.use, jump.start_step, jump.stop_step) == ("trainables.faults:learning_rate_factor", 40, 60)
    assert jump.params == {"factor": 20.0}
    assert (labels.use, labels.start_step, labels.params) == ("trainables.faults:shuffled_labels", 0, {})
    assert trial.optim.lr == 0.2


def test_no_fault_changes_nothing() -> None:
    """The overrides stay as they are."""
    assert with_faults(["seed=1"], []) == ["seed=1"]


@pytest.mark.parametrize("text", ["", "factor=3", "a:b 3", "a:b =3", "a:b 'open"])
def test_what_is_no_fault_is_one_line(text: str) -> None:
    """Key, value, what is allowed, the remedy."""
    with pytest.raises(ConfigError, match="MODULE:NAME and then key=value") as caught:
        with_faults([], [text])
    assert "remedy: write --fault" in str(caught.value)


@pytest.mark.parametrize("command", ["sweep", "train"])
def test_an_unknown_fault_is_told_before_work_starts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line, no trial."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "one.yaml"
    file.write_text("name: one\ntrial: {max_steps: 20}\n")
    assert main([command, str(file), "--fault", "trainables.faults:no_such"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("epoch14: error: faults.0.use: 'trainables.faults:no_such' is not allowed")

"""`epoch14 compare` and `explain --json` on a real store."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.tracking import default_tracking_uri
from infra.tracking_callback import TrialTracker
from pipelines.cli import main
from pipelines.compare import compare, print_comparison
from tests.pipelines.recorded import falling, record
from trainables.errors import ConfigError, TrackingError

DIAGNOSIS: dict[str, Any] = {
    "symptom": {"kind": "spike", "step": 9, "onset": 7, "epoch": 0, "severity": math.inf, "detail": "loss 3.1"},
    "cause": "lr_jump",
    "group": "learning_rate",
    "confidence": 0.87,
    "table": [],
    "curves": {"as run": [[5, 0.4], [9, math.inf]]},
    "remedy": {"change": {"optim.lr": 0.1}, "text": "hold the rate at 0.1", "verified": True, "severity": 0.3},
}
EVENT = {
    "number": 1,
    "kind": "spike",
    "step": 9,
    "onset": 7,
    "action": "rollback",
    "text": "optim.lr = 0.1",
    "reached": 7,
    "back_to": 4,
    "rollbacks": 1,
    "diagnosis": DIAGNOSIS,
}


def parting(step: int) -> float:
    """The same up to step 6, then another one."""
    return falling(step) + (0.5 if step >= 7 else 0.0)


def failing(step: int) -> float:
    """The same up to step 7, then no number."""
    return falling(step) if step < 8 else math.inf


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of two sweeps over rate, seed and batch; the second has workers and a fault."""
    uri = default_tracking_uri(tmp_path_factory.mktemp("store"))
    space = {"optim.lr": [0.1, 3.0], "seed": [0, 1], "global_batch_size": [32, 64]}
    first = TrialTracker(uri, "epoch14", "first", {"trial": {}, "space": space, "resources": {"workers": 1}})
    record(first, "a1b2c_00000", {"optim.lr": 0.1}, falling)
    lost = {"phase": "stopped", "symptom": "spike", "diagnosis": DIAGNOSIS, "best_val_top1": 0.25}
    record(first, "a1b2c_00001", {"optim.lr": 3.0}, parting, **lost)
    record(first, "a1b2c_00002", {"optim.lr": 0.1, "seed": 1, "global_batch_size": 64}, parting)
    record(first, "a1b2c_00003", {"optim.lr": 0.1}, failing, event=EVENT)
    assert first.finish([]) is None
    base = {"faults": [{"use": "trainables.faults:shuffled_labels", "start_step": 4}]}
    second = TrialTracker(uri, "epoch14", "second", {"trial": base, "space": space, "resources": {"workers": 2}})
    record(second, "d4e5f_00000", {"optim.lr": 0.1}, falling)
    assert second.finish([]) is None
    return uri


def told(a: str, b: str, uri: str, **console: Any) -> str:
    """What `compare` prints without a terminal, its white space reduced."""
    output = io.StringIO()
    print_comparison(compare(a, b, uri), Console(file=output, **console))
    return " ".join(output.getvalue().replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "").split())


def as_json(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a command prints with --json: one line, and no NaN in it."""
    assert main([*arguments, "--json"]) == 0
    (line,) = capfd.readouterr().out.splitlines()

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    values: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return values


def test_an_ill_trial_beside_a_healthy_one(store: str) -> None:
    """The one key that differs stands beside both outcomes and the first step at which the losses part."""
    words = told("a1b2c_00000", "a1b2c_00001", store)

    for part in (
        "A a1b2c_00000 resnet50 bn b32 cosine_warmup lr0.1; sweep first",
        "optim.lr 0.1 3.0 outcome A B",
        "best val top-1 62.5 % 25.0 %",
        "final loss 0.1 0.6",
        "last step 9 9",
        "symptom none spike",
        "cause - lr_jump",
        "confidence - 87 %",
        "verified remedy - hold the rate at 0.1",
        "status FINISHED KILLED",
        "they differ from step 7 on: 0.125 in A, 0.625 in B, a difference of +0.5; equal to the last bit before.",
    ):
        assert part in words
    assert "global_batch_size" not in words
    assert "went back" not in words


def test_losses_on_other_samples_are_not_compared(store: str) -> None:
    """Another seed or batch gives other samples at the same step, so no step is named; the keys are."""
    comparison = compare("a1b2c_00000", "a1b2c_00002", store)

    assert comparison.changed == ["seed", "global_batch_size"]
    assert comparison.parting is None
    assert "not compared step by step, since the samples of a step differ with seed, global_batch_size." in told(
        "a1b2c_00000", "a1b2c_00002", store
    )


def test_trials_of_two_sweeps(store: str) -> None:
    """A fault and the number of workers of another sweep are differences; equal losses are said to be equal."""
    comparison = compare("a1b2c_00000", "d4e5f_00000", store)

    assert comparison.changed == ["resources.workers", "faults.0.use", "faults.0.start_step"]
    assert "faults.0.use - trainables.faults:shuffled_labels" in told("a1b2c_00000", "d4e5f_00000", store)
    assert "equal to the last bit on all 10 common steps" in told("a1b2c_00000", "d4e5f_00000", store)


def test_a_loss_that_is_no_number_parts_two_runs(store: str) -> None:
    """Equal configs are said to be equal; a non-finite loss against a finite one is the difference."""
    words = told("a1b2c_00000", "a1b2c_00003", store)

    assert "The configs are equal." in words
    assert "differ from step 8 on: 0.111111111 in A, non-finite in B; equal" in words
    assert "final loss 0.1 non-finite" in words
    assert "went back, and on with - optim.lr = 0.1" in words


def test_json_says_the_same(store: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`--json` is one standard JSON object with keys, outcomes and the parting step; what is not finite is null."""
    values = as_json(capfd, "compare", "a1b2c_00000", "a1b2c_00001", "--uri", store)

    assert values["config"] == [{"key": "optim.lr", "a": 0.1, "b": 3.0}]
    assert values["a"]["verified_remedy"] is None
    assert (values["b"]["symptom"], values["b"]["cause"], values["b"]["confidence"]) == ("spike", "lr_jump", 0.87)
    assert values["losses"] == {
        "same_samples": True,
        "other_order": [],
        "common_steps": 10,
        "first_difference": {"step": 7, "loss_a": 0.125, "loss_b": 0.625, "difference": 0.5},
    }
    lost = as_json(capfd, "compare", "a1b2c_00000", "a1b2c_00003", "--uri", store)
    assert lost["b"]["final_loss"] is None
    assert lost["b"]["went_back_and_on_with"] == ["optim.lr = 0.1"]
    absent = as_json(capfd, "compare", "a1b2c_00000", "d4e5f_00000", "--uri", store)["config"]
    assert absent[1] == {"key": "faults.0.use", "b": "trainables.faults:shuffled_labels"}


def test_explain_as_json(store: str, capfd: pytest.CaptureFixture[str]) -> None:
    """`explain --json` holds the whole diagnosis as it is stored; what is not finite is null."""
    values = as_json(capfd, "explain", "a1b2c_00001", "--uri", store)

    assert values["trial_id"] == "a1b2c_00001"
    assert values["best_val_top1"] == 0.25
    assert values["diagnosis"]["remedy"] == DIAGNOSIS["remedy"]
    assert values["diagnosis"]["symptom"]["severity"] is None
    assert values["diagnosis"]["curves"] == {"as run": [[5, 0.4], [9, None]]}


def test_what_cannot_be_compared_is_said_in_one_line(store: str, tmp_path: Path) -> None:
    """The same trial twice, an unknown one and a store that isn't there are named, with the remedy."""
    with pytest.raises(ConfigError, match=r"^B: 'a1b2c_00000' is not allowed; allowed: another trial than A"):
        compare("a1b2c_00000", "a1b2c_00000", store)
    with pytest.raises(ConfigError, match=r"^TRIAL: 'a1b2c_0000x' .*write 'a1b2c_0000"):
        compare("a1b2c_00000", "a1b2c_0000x", store)
    with pytest.raises(TrackingError, match="run a sweep first"):
        compare("x", "y", default_tracking_uri(tmp_path / "none"))


def test_a_narrow_terminal_loses_no_word(store: str) -> None:
    """In 40 columns the cells wrap."""
    words = told("a1b2c_00000", "d4e5f_00000", store, width=40, force_terminal=True, color_system=None)

    assert "trainables.faults:shuffled_labels" in words.replace(" ", "")
    assert "…" not in words

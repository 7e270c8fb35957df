"""What is told of a run as a whole: its JSON, what was assumed, real curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from trainables.runlog.files import read_file
from trainables.runlog.finding import Finding, diagnose_log
from trainables.runlog.runs import runs_of

Log = dict[str, np.ndarray]
Make = Callable[..., Log]
Find = Callable[..., Finding]
SCHEMA = {
    "type": "object",
    "required": ["run", "symptoms", "causes", "verdict", "notes"],
    "additionalProperties": False,
    "properties": {
        "run": {"type": "string"},
        "symptoms": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kind", "step", "end_step", "severity", "detail"],
                "additionalProperties": False,
                "properties": {
                    "kind": {"type": "string"},
                    "step": {"type": "integer"},
                    "end_step": {"type": "integer"},
                    "severity": {"type": "number"},
                    "detail": {"type": "string"},
                },
            },
        },
        "causes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["cause", "group", "confidence", "evidence", "replay"],
                "additionalProperties": False,
                "properties": {
                    "cause": {"type": "string"},
                    "group": {"enum": ["learning_rate", "normalization", "data", "preprocessing", "numerics", "code"]},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 0.75},
                    "evidence": {"type": "string", "pattern": "[0-9]"},
                    "replay": {"type": "string"},
                },
            },
        },
        "verdict": {"type": "string"},
        "notes": {"type": "array", "items": {"type": "string"}},
    },
}


def test_the_json_is_frozen(healthy: Make, spiked: Make, find: Find) -> None:
    """Ill runs of every kind and a healthy one keep to the schema; no number is nan, the best cause comes first."""
    ill = spiked(healthy(), 200)
    gone = healthy()
    gone["loss"][200:] = math.nan
    for log in (healthy(), ill, gone):
        told = find(log).to_dict()
        jsonschema.validate(told, SCHEMA)
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        confidences = [cause["confidence"] for cause in told["causes"]]
        assert confidences == sorted(confidences, reverse=True)


def test_chance_is_guessed_only_where_it_is_safe(healthy: Make, find: Find) -> None:
    """First losses near ln 1000 are ImageNet's; those near ln 100 may be anything, until an accuracy says the same."""
    assert any("1000 classes are assumed" in note for note in find(healthy(classes=1000), None).notes)
    small = healthy(classes=100)
    assert any("number of classes is unknown" in note for note in find(small, None).notes)
    guessing = {**small, "train_acc": np.linspace(0.01, 0.9, 400)}
    assert any("100 classes are assumed" in note for note in find(guessing, None).notes)
    knowing = {**small, "train_acc": np.linspace(0.3, 0.9, 400)}
    assert any("number of classes is unknown" in note for note in find(knowing, None).notes)


def test_percents_are_shares(healthy: Make, find: Find) -> None:
    """Accuracies of 0.1 to 90 are percents: an evaluation at 1 % of 100 classes is at chance."""
    log = healthy()
    log["val_acc"] = np.linspace(1.0, 90.0, 400)
    assert find(log).symptoms == ()
    log["val_acc"][300:] = 1.0
    assert [event.kind for event in find(log).symptoms] == ["eval_gap"]


def test_steps_are_the_logs_own(healthy: Make, spiked: Make, find: Find) -> None:
    """A log with a point each 100 steps tells of steps, and is judged by its points."""
    [event] = find(spiked(healthy(every=100), 200)).symptoms
    assert (event.step, event.end_step) == (20000, 21900)


def test_a_run_that_began_anew_is_told_in_both_parts(healthy: Make, spiked: Make, find: Find) -> None:
    """Spikes of either start are found, and the note says that there were two."""
    log = spiked(spiked(healthy(800), 300), 700)
    log["step"] = np.concatenate([np.arange(400), np.arange(400)])
    log["loss"][400:440] = log["loss"][:40]
    finding = find(log)
    assert [event.step for event in finding.symptoms] == [300, 300]
    assert any("begun anew: steps 0 to 399, steps 0 to 399" in note for note in finding.notes)


def test_a_loss_that_is_nan_from_the_first_step(healthy: Make, find: Find) -> None:
    """Nothing finite at all is one event and no crash; neither is a log of one row."""
    log = {key: values[:5] for key, values in healthy().items()}
    log["loss"] = np.full(5, math.nan)
    [event] = find(log, None).symptoms
    assert (event.kind, event.step, event.end_step) == ("non_finite", 0, 4)
    assert find({key: values[:1] for key, values in healthy().items()}).symptoms == ()


@pytest.fixture(scope="module")
def curves(shared_data: Path) -> Path:
    """Real training logs."""
    path = shared_data / "curves" / "train.parquet"
    if not path.is_file():
        pytest.skip("the real curves (../shared/data/curves beside the repository) are absent")
    return path


def test_real_logs_of_many_runs_are_told_apart(curves: Path) -> None:
    """Ten healthy language models and a few ResNets of the real curves: the models are quiet, and no log of loss and
    gradient alone gets a verdict.
    """
    logs = runs_of(read_file(curves), {}, "curves")
    assert len(logs) == 98
    assert len({log.name for log in logs}) == 98
    quiet = [diagnose_log(log) for log in logs if log.name.startswith("nanogpt/")]
    ill = [diagnose_log(log) for log in logs if "/sinv6/" in log.name]
    assert [finding.symptoms for finding in quiet] == [()] * 10
    assert all(finding.symptoms for finding in ill)
    assert {finding.verdict for finding in ill} == {"unexplained"}

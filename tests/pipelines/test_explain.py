"""`epoch14 explain` on a real store."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.tracking import default_tracking_uri
from infra.tracking_callback import TrialTracker
from pipelines.explain import explain
from tests.pipelines.recorded import record
from trainables.errors import ConfigError, TrackingError

DIAGNOSIS: dict[str, Any] = {
    "symptom": {"kind": "spike", "step": 9, "onset": 7, "epoch": 0, "severity": 14.2, "detail": "loss 3.1"},
    "cause": "bn_small_batch",
    "group": "normalization",
    "confidence": 0.87,
    "summary": "statistics over 4 samples",
    "table": [
        {
            "ingredient": "normalization",
            "swap": "statistics over a merged batch of 64",
            "severity_without": 0.4,
            "necessary": "yes",
            "severity_alone": 13.8,
            "sufficient": "yes",
            "evidence": "[red]shirt|polo[/red] *.jpg",
        }
    ],
    "controls": {"exact": 14.2, "exact_bits_equal": True, "placebo": [13.9], "all_reference": 0.2, "snapshot_step": 5},
    "curves": {"as run": [[5, 0.4], [9, math.inf]]},
    "remedy": {"change": {"model.norm": "gn"}, "text": "use group norm", "verified": True, "severity": 0.3},
    "replayed_steps": 24,
    "seconds": 4.1,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of two sweeps; the newer one has an ill, a healthy and an undiagnosed trial."""
    uri = default_tracking_uri(tmp_path_factory.mktemp("store"))
    params = {"trial": {"model": {"name": "resnet18"}}, "space": {"model.norm": ["bn", "gn"]}}
    old = TrialTracker(uri, "epoch14", "old", params)
    record(old, "0ld00_00000", {"model.norm": "gn"})
    assert old.finish([]) is None
    new = TrialTracker(uri, "epoch14", "new", params)
    record(new, "a1b2c_00000", {"model.norm": "bn"}, phase="stopped", symptom="spike", diagnosis=DIAGNOSIS)
    record(new, "a1b2c_00001", {"model.norm": "gn"})
    record(new, "a1b2c_00002", {"model.norm": "ghost_bn"}, phase="stopped", symptom="divergence")
    assert new.finish([]) is None
    return uri


def told(trial: str, uri: str, **console: Any) -> str:
    """What `explain` prints without a terminal."""
    output = io.StringIO()
    explain(trial, uri, Console(file=output, **console))
    return output.getvalue()


def test_an_ill_trial_is_told_with_its_evidence(store: str) -> None:
    """Cause, swaps, controls and remedy of the stored diagnosis are printed in 100 columns, names as they are."""
    text = told("a1b2c_00000", store)
    words = " ".join(text.split())

    for part in (
        "a1b2c_00000 resnet18 bn b32 cosine_warmup lr0.1",
        "config model.norm=bn",
        "spike at step 9 (epoch 0): bn_small_batch",
        "confidence 87 %",
        "use group norm. Verified: a replay with it stays healthy (severity 0.3). In the config: model.norm = gn.",
        "merged batch of 64",
        "[red]shirt|polo[/red] *.jpg",
        "exact replay from step 5",
    ):
        assert part in words
    assert max(map(len, text.splitlines()[5:])) <= 100


@pytest.mark.parametrize("name", ["a1b2c_00000", "resnet18 bn b32 cosine_warmup lr0.1", "00000"])
def test_a_trial_goes_by_id_name_or_place(store: str, name: str) -> None:
    """Trial id, run name and the place that the sweep's table shows lead to the same story; the newest trial wins."""
    text = told(name, store)

    assert "a1b2c_00000" in text
    assert ("the newest of 2 trials" in text) == (name == "00000")


def test_a_trial_goes_by_its_run_id(store: str) -> None:
    """MLflow's run id, as the story itself shows it, works too."""
    run_id = told("a1b2c_00001", store).partition("MLflow  run ")[2][:32]

    assert "a1b2c_00001" in told(run_id, store)


def test_a_trial_without_a_diagnosis_is_told_as_it_is(store: str) -> None:
    """A healthy trial is called healthy; one whose diagnosis was never written is not given a cause."""
    assert "Healthy: no symptom (last step 9, best val top-1 62.5 %)." in told("a1b2c_00001", store)
    assert "divergence: the trial was stopped, and no diagnosis was written" in told("a1b2c_00002", store)


def test_an_unknown_trial_names_close_ones(store: str) -> None:
    """A slip is answered with what it may have meant, anything else with what there is; one line each."""
    for wrong, remedy in (
        ("a1b2c_00007", "write 'a1b2c_000"),
        ("resnet18 bn b32 cosine lr0.1", "'resnet18 bn b32 cosine_warmup lr0.1'"),
        ("", "write one of 'a1b2c_00002'"),
        ('it\'s "quoted"', "write one of"),
        ("f" * 32, "write one of"),
    ):
        with pytest.raises(ConfigError) as caught:
            told(wrong, store)
        message = str(caught.value)
        assert message.startswith("TRIAL: ")
        assert remedy in message.partition("; remedy: ")[2]
        assert "\n" not in message


def test_a_store_that_is_not_there_is_said_to_be_none(tmp_path: Path) -> None:
    """Nothing is created where nothing was recorded."""
    with pytest.raises(TrackingError, match="run a sweep first"):
        told("x", default_tracking_uri(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_narrow_terminal_loses_no_word(store: str) -> None:
    """In 60 columns the tables wrap."""
    words = "".join(told("a1b2c_00000", store, width=60, force_terminal=True, color_system=None).split())

    assert "bn_small_batch" in words
    assert "…" not in words

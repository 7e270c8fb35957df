"""The final table of a sweep and its answer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.report import answer, print_report, short_ids
from pipelines.sweep import SweepResult, TrialRow

REMEDY = "hold the learning rate at 0.03 after step 60"


def trial_row(place: int, **changes: Any) -> TrialRow:
    """A healthy trial."""
    name = "resnet50 bn b16 cosine_warmup lr0.1"
    return TrialRow(
        **{
            "trial_id": f"a1b2c_{place:05d}",
            "name": name,
            "params": {},
            "best_val_top1": 0.5,
            "steps": 99,
            "status": "finished",
            **changes,
        }
    )


def ill(place: int, cause: str = "lr_jump", **changes: Any) -> TrialRow:
    """A trial that was stopped and diagnosed."""
    told = {"symptom": "spike", "cause": cause, "confidence": 0.93, "remedy": REMEDY, "verified": True}
    return trial_row(place, status="stopped", group="learning_rate", **{**told, **changes})


def printed(rows: list[TrialRow], uri: str = "http://host:5000", **console: Any) -> str:
    """What a sweep of these rows prints."""
    output = io.StringIO()
    failed = sum(row.status == "failed" for row in rows)
    result = SweepResult(rows, "first-light", Path("outputs"), uri, "epoch14", "run", failed, interrupted=False)
    print_report(result, Console(file=output, **console))
    return output.getvalue()


@pytest.mark.parametrize("cause", ["bn_small_batch", "optimizer_state_lost", "accumulation_unscaled"])
def test_no_cause_is_cut_in_a_hundred_columns(cause: str) -> None:
    """Without a terminal the table has 100 columns: the cause stands whole, config and remedy wrap."""
    text = printed([ill(0, cause, symptom="input_shift"), trial_row(1, name="n" * 60)])
    lines = text.splitlines()

    assert f"input_shift  {cause}" in text
    assert max(len(line) for line in lines if "epoch14" not in line) <= 100
    assert "…" not in text
    for word in REMEDY.split():
        assert word in text
    assert sum(line.count("n" * 8) > 0 for line in lines) > 1


def test_the_table_has_what_was_asked_for() -> None:
    """Trial, config, best val top-1, symptom, cause, confidence and verified remedy; a failure keeps its error."""
    rows = [ill(0), trial_row(1, status="pruned"), trial_row(2, status="failed", error="ValueError: [bold]no")]
    text = printed(rows, width=160)

    for head in ("trial", "config", "best val", "top-1", "symptom", "cause", "confidence", "verified remedy"):
        assert head in text
    assert f"00000  resnet50 bn b16 cosine_warmup lr0.1    50.0 %  spike     lr_jump        93 %  {REMEDY}" in text
    assert "(pruned)" in text
    assert "00002 failed: ValueError: [bold]no" in text
    assert "epoch14 explain a1b2c_00000 --uri http://host:5000" in text


def test_markup_in_names_is_text() -> None:
    """Square brackets of a name are neither colours nor errors."""
    assert "[red]x[/nothing]" in printed([trial_row(0, name="[red]x[/nothing]")])


def test_an_unverified_remedy_is_not_shown() -> None:
    """What no replay proved stands neither in the table nor in the answer."""
    rows = [ill(0, verified=False)]

    assert REMEDY not in " ".join(printed(rows).split())
    assert answer(rows) == "1 of 1 trials fell ill: lr_jump (1); none stayed healthy. No replay proved a remedy."


def test_the_answer_counts_causes_and_names_proven_remedies() -> None:
    """One or two sentences: how many fell ill of what, the best healthy trial, and the surest remedy of each cause."""
    rows = [
        ill(0, remedy="a worse one", confidence=0.7),
        ill(1),
        ill(2, "unexplained", verified=False, remedy=""),
        ill(3, "", symptom="divergence", verified=False),
        trial_row(4, name="steady", best_val_top1=0.9),
        trial_row(5, status="failed", best_val_top1=0.95, error="boom"),
    ]

    assert answer(rows) == (
        "4 of 6 trials fell ill: lr_jump (2), unexplained (1), not diagnosed (1); 1 failed with an error; "
        "the best healthy one is steady with a val top-1 of 90.0 %. "
        "Proved by a replay: for lr_jump, hold the learning rate at 0.03 after step 60."
    )


def test_a_healthy_sweep_says_so() -> None:
    """Without symptoms there is nothing to explain; without trials there is nothing to say."""
    rows = [trial_row(0), trial_row(1, name="better", best_val_top1=0.75)]

    assert answer(rows) == "No trial fell ill; the best of 2 is better with a val top-1 of 75.0 %."
    assert "epoch14 explain" not in printed(rows)
    assert "No trial ran." in printed([])


def test_an_interrupted_trial_has_no_result() -> None:
    """What did not come to an end is counted, and is neither healthy nor the best of anything."""
    stopped = trial_row(0, status="interrupted", best_val_top1=0.0)

    assert answer([stopped]) == "No trial fell ill; 1 did not come to an end."
    assert answer([stopped, trial_row(1, name="done")]) == (
        "No trial fell ill; 1 did not come to an end; the best of 1 is done with a val top-1 of 50.0 %."
    )
    assert answer([ill(0), stopped]).startswith("1 of 2 trials fell ill: lr_jump (1); 1 did not come to an end. ")


def test_short_ids_tell_the_trials_apart() -> None:
    """The place in the sweep stands for the trial id where all trials are of one sweep."""
    assert short_ids([trial_row(0), trial_row(1)]) == {"a1b2c_00000": "00000", "a1b2c_00001": "00001"}
    odd = [trial_row(0), trial_row(0, trial_id="zzzzz_00000")]
    assert short_ids(odd) == {row.trial_id: row.trial_id for row in odd}

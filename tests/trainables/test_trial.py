"""One trial in one process: its rows, its ends, its bits. Two processes: test_two_ranks.py; diagnoses: diagnosis/."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from trainables.build import choose_device
from trainables.errors import ConfigError, DataError
from trainables.signals import MEASURED
from trainables.speed import SPEEDS
from trainables.trial import Trial

if TYPE_CHECKING:
    from tests.conftest import TinyImages
    from tests.trainables.conftest import Run, RunTrial, Tiny

ROW = {
    *("step", "epoch", "phase", "replay", "loss", "lr", "val_top1", "best_val_top1", *SPEEDS),
    *("symptom", "history", "quarantined", "diagnosis", "interventions", "event"),
}
STEP = {
    *("step", "loss", "loss_noise", "lr", "grad_norm", "logit_rms", "train_top1"),
    *(f"input_{moment}_{channel}" for moment in ("mean", "std") for channel in "rgb"),
}


@pytest.fixture(scope="module")
def healthy(run: RunTrial, tiny: Tiny) -> Run:
    """Eight steps, reported and evaluated each three, over a rate that changes."""
    return run(tiny(max_steps=8, report_every=3, eval_every=3, schedule={"kind": "cosine"}))


def test_a_finished_trial(healthy: Run) -> None:
    """All steps done, no symptom, the best accuracy of its evaluations."""
    result = healthy.result
    assert (result.phase, result.steps, result.symptom, result.diagnosis) == ("finished", 8, None, None)
    assert result.best_val_top1 == max(step["val_top1"] for step in healthy.history if "val_top1" in step)


def test_rows_come_each_report_every_steps_and_at_the_end(healthy: Run) -> None:
    """Two of training and the last; `step` counts the steps done and never falls."""
    assert [(row["step"], row["phase"]) for row in healthy.rows] == [
        (3, "training"),
        (6, "training"),
        (8, "finished"),
    ]


def test_each_step_is_reported_once(healthy: Run) -> None:
    """In order, with its own signals."""
    assert [step["step"] for step in healthy.history] == list(range(8))
    assert [len(row["history"]) for row in healthy.rows] == [3, 3, 2]


def test_rows_have_the_protocols_keys(healthy: Run) -> None:
    """Exactly those, so that every reader finds the same; the fingerprints on every RATIO_EVERY-th step."""
    assert all(set(row) == ROW for row in healthy.rows)
    at_times = {"val_top1", "val_top5", "val_loss", "bn_top1_lost", *MEASURED}
    assert all(set(step) - at_times == STEP for step in healthy.history)
    measured = {step["step"]: set(MEASURED) & set(step) for step in healthy.history if set(MEASURED) & set(step)}
    # One rank has no other to compare with.
    assert measured == {0: set(MEASURED) - {"weight_checksum_spread"}}
    assert [step["step"] for step in healthy.history if "val_top5" in step] == [2, 5, 7]
    assert [step["step"] for step in healthy.history if "bn_top1_lost" in step] == [2, 5, 7]
    assert all(row["diagnosis"] is None and row["symptom"] == "" and row["replay"] == "" for row in healthy.rows)


def test_rows_are_strict_json(healthy: Run) -> None:
    """Plain types without nan, read back as they were."""
    assert json.loads(json.dumps(healthy.rows, allow_nan=False)) == healthy.rows


def test_evaluations_lie_at_their_steps(healthy: Run) -> None:
    """After each `eval_every` steps; rows carry the latest and the best so far."""
    evaluated = {step["step"]: step["val_top1"] for step in healthy.history if "val_top1" in step}
    assert list(evaluated) == [2, 5, 7]
    assert [row["val_top1"] for row in healthy.rows] == list(evaluated.values())
    best = [max(top1 for step, top1 in evaluated.items() if step < row["step"]) for row in healthy.rows]
    assert [row["best_val_top1"] for row in healthy.rows] == best


def test_rows_agree_with_their_last_step(healthy: Run) -> None:
    """Loss and rate of a row are those of the step before it; the rate is the schedule's."""
    for row in healthy.rows:
        last = row["history"][-1]
        assert (row["loss"], row["lr"], row["step"]) == (last["loss"], last["lr"], last["step"] + 1)
        assert 0 < row["images_per_s"] <= row["step_images_per_s"]
        assert row["epoch"] == 0
    # The last batches are made ahead.
    assert healthy.rows[0]["loader_images_per_s"] > 0
    rates = [0.02 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert [step["lr"] for step in healthy.history] == pytest.approx(rates)


def test_the_last_step_is_always_evaluated(run: RunTrial, tiny: Tiny) -> None:
    """Also where `max_steps` is no multiple of `eval_every`; and a report that falls on the end is sent once."""
    short = run(tiny(max_steps=2, eval_every=100, report_every=2))
    assert [row["phase"] for row in short.rows] == ["finished"]
    assert [step["step"] for step in short.history if "val_top1" in step] == [1]


def test_two_runs_of_one_config_are_equal_to_the_last_bit(healthy: Run, run: RunTrial, tiny: Tiny) -> None:
    """Every signal of every step, whatever the number of loader threads and the global generators."""
    torch.manual_seed(99)
    changes = {"max_steps": 8, "report_every": 3, "eval_every": 3, "schedule": {"kind": "cosine"}}
    again = run(tiny(**changes, data={"loader_threads": 2}))
    assert again.history == healthy.history


def test_reports_and_diagnosis_settings_change_no_bit(healthy: Run, run: RunTrial, tiny: Tiny) -> None:
    """How often a run is reported, evaluated or snapshotted is no part of a step."""
    other = run(
        tiny(max_steps=8, report_every=5, schedule={"kind": "cosine"}, diagnosis={"snapshot_every": 1, "snapshots": 2})
    )
    assert other.losses == healthy.losses


def test_the_seed_changes_everything(healthy: Run, run: RunTrial, tiny: Tiny) -> None:
    """Other weights, another order, another loss from the first step on."""
    other = run(tiny(max_steps=3, seed=1))
    assert all(a != b for a, b in zip(other.losses, healthy.losses, strict=False))


def test_threads_are_the_configs(tiny: Tiny, digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums depend on the number of threads to the last bit, so the config sets it."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    for threads in (2, 1):
        Trial(tiny(threads=threads), lambda row: None)
        assert torch.get_num_threads() == threads


def test_images_that_do_not_decode_are_named_and_replaced(run: RunTrial, tiny: Tiny, tiny_images: TinyImages) -> None:
    """One of train/ and one of val/: the run goes on to its end, its last row names both, and it can be repeated."""
    folder = tiny_images(train=8, val=4)
    damaged = [folder / "train" / "cat" / "003.png", folder / "val" / "dog" / "001.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    options: dict[str, Any] = {"path": str(folder), "max_quarantined": 2}
    first, again = (run(tiny(max_steps=4, data={**options, "loader_threads": threads})) for threads in (0, 2))
    assert first.result.phase == "finished"
    assert first.rows[-1]["quarantined"] == [str(path) for path in damaged]
    assert again.history == first.history
    with pytest.raises(DataError, match=r"^data\.max_quarantined: 1 is not allowed"):
        run(tiny(max_steps=4, data={**options, "max_quarantined": 1}))


NAN = {"faults": [{"use": "trainables.faults:non_finite_input", "start_step": 2, "stop_step": 4}]}


def test_a_symptom_stops_the_trial(run: RunTrial, tiny: Tiny) -> None:
    """Without a diagnosis it stops at once: a row that announces it, and the last one."""
    ill = run(tiny(diagnosis={"enabled": False}, **NAN))
    assert (ill.result.phase, ill.result.steps, ill.result.diagnosis) == ("stopped", 3, None)
    assert [(row["phase"], row["symptom"], row["step"]) for row in ill.rows] == [
        ("diagnosing", "non_finite", 3),
        ("stopped", "non_finite", 3),
    ]
    assert [step["step"] for step in ill.history] == [0, 1, 2]
    assert math.isnan(ill.rows[-1]["loss"])


def test_a_disabled_detector_trains_on(run: RunTrial, tiny: Tiny) -> None:
    """Steps that are not finite are skipped, and the run goes on to its end."""
    tough = run(tiny(max_steps=6, detector={"enabled": False}, **NAN))
    assert tough.result.phase == "finished"
    assert [math.isfinite(loss) for loss in tough.losses] == [True, True, False, False, True, True]


def test_a_diagnosis_ends_in_the_last_row(run: RunTrial, tiny: Tiny) -> None:
    """A real ResNet: wrong statistics from the first step on are seen, replayed, named and cured."""
    config = tiny(
        global_batch_size=16,
        max_steps=20,
        data={"normalization": "one_scale"},
        detector={"history": 8, "min_history": 8},
        diagnosis={"replicates": 1, "horizon": 4},
    )
    ill = run(config)
    assert ill.result.phase == "stopped"
    found = ill.rows[-1]["diagnosis"]
    assert (found["symptom"]["kind"], found["cause"], found["group"]) == (
        "input_shift",
        "wrong_mean_std",
        "preprocessing",
    )
    assert found["remedy"]["change"] == {"data.normalization": "per_channel"}
    assert found["remedy"]["verified"]
    assert found["controls"]["exact_bits_equal"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [step["step"] for step in ill.history] == list(range(9))


@pytest.mark.parametrize(
    ("changes", "error", "pattern"),
    [
        ({"data": {"path": "no/such/folder"}}, DataError, r"^data\.path: 'no/such/folder'"),
        ({"global_batch_size": 1501}, DataError, r"^global_batch_size: 1501"),
        ({"faults": [{"use": "trainables.faults:no_such"}]}, ConfigError, r"^faults\.0\.use: "),
        ({"global_batch_size": 1}, ConfigError, r"^global_batch_size: 1 .*gn"),
    ],
)
def test_what_is_wrong_is_one_line_before_the_first_step(
    run: RunTrial, tiny: Tiny, changes: dict[str, Any], error: type[Exception], pattern: str
) -> None:
    """Missing data, a batch larger than the data set, an unknown fault; batch norm over a single value, too."""
    with pytest.raises(error, match=pattern) as caught:
        run(tiny(**changes))
    assert len(str(caught.value).splitlines()) == 1


def test_a_batch_of_one_trains_under_group_norm(run: RunTrial, tiny: Tiny) -> None:
    """Nothing needs a second sample; the standard error of its loss is unknown."""
    alone = run(tiny(max_steps=2, global_batch_size=1, model={"norm": "gn"}))
    assert all(math.isfinite(loss) for loss in alone.losses)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_one_line() -> None:
    """CUDA where there is none: key, value, what is allowed, the remedy."""
    with pytest.raises(ConfigError, match=r"^device: 'cuda' is not allowed; allowed: .*; remedy: set device to auto$"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")

"""A quick cut of the benchmark of the diagnosis engine, and what its figures rest on: forks that are exact."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.diagnosis.adapter import Training
from tests.benchmarks.diagnosis.bases import BASES, base, cosine
from tests.benchmarks.diagnosis.cases import VARIANTS, case_named, select
from tests.benchmarks.diagnosis.damage import relabelled
from tests.benchmarks.diagnosis.healthy import folder_of, train_base
from tests.benchmarks.diagnosis.report import renewed, write_report
from tests.benchmarks.diagnosis.results import append, read
from tests.benchmarks.diagnosis.run import data_of, run_case
from tests.benchmarks.diagnosis.scoring import GROUPS, harmful
from tests.benchmarks.diagnosis.statistics import best_stretch, brier_skill, log_loss, reliability
from tests.benchmarks.diagnosis.variant import BELOW, Case, Variant
from tests.benchmarks.published import RULES, first_alarm
from trainables.config import TrialConfig
from trainables.data.index import open_index
from trainables.faults import BUILT_IN

TINY = base("tiny", "tune", 40, 8, optim={"lr": 0.01}, schedule=cosine(5), diagnosis={"horizon": 8, "replicates": 1})
WATCH = 16


@pytest.fixture(scope="module")
def cache(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that holds the healthy run."""
    folder = tmp_path_factory.mktemp("bench-diagnosis")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        assert train_base(TINY, 0, folder, WATCH) == ""
        yield folder


def case_of(name: str) -> Case:
    """A variant of the catalogue on the tiny base."""
    return Case(TINY, next(variant for variant in VARIANTS if variant.name == name), 0)


def fork(case: Case, cache: Path, index: Any) -> Training:
    """The case's run, just before its onset."""
    run = Training(TrialConfig.parse(case.values()), index)
    run.restore(folder_of(case.base, case.seed, cache))
    return run


def test_a_fork_goes_on_with_the_bits_of_the_run_it_came_from(cache: Path) -> None:
    """The forked healthy continuation and an uninterrupted run have equal losses and equal weights."""
    case = case_of("healthy")
    with data_of(case, TrialConfig.parse(case.values())) as index:
        whole, forked = Training(TrialConfig.parse(case.values()), index), fork(case, cache, index)
        assert whole.train(TINY.onset + WATCH) is None
        assert forked.train(TINY.onset + WATCH) is None
    assert forked.losses == whole.losses
    assert forked.detector.state_dict() == whole.detector.state_dict()
    ours, theirs = forked.state.tensors(), whole.state.tensors()
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in theirs)


def test_damaged_files_leave_the_steps_before_the_onset_alone(cache: Path) -> None:
    """Of a run whose later files are damaged, each sample before the onset is as it was, and later ones are not."""
    case = case_of("files-black-80")
    with data_of(case, TrialConfig.parse(case.values())) as index:
        run = fork(case, cache, index)
        healthy = open_index("digits")
        assert run.foreign_samples(healthy, 0, case.onset) == ()
        later = run.foreign_samples(healthy, case.onset, case.onset + 8)
    assert 40 < len(later) < 64


def test_labels_are_wrong_on_disk_without_a_changed_id(digits_cache: Path) -> None:
    """Relabelled files keep names and labels; it is the images that are others'."""
    variant = Variant("offset", "files", damage=relabelled(1.0, offset=1), from_start=True)
    case = Case(TINY, variant, 0)
    healthy = open_index("digits", cache_dir=digits_cache)
    with data_of(case, TrialConfig.parse(case.values())) as index:
        assert index.fingerprint() == healthy.fingerprint()
        last = len(index.train) - 1
        drawn = index.train.store.read(last).tobytes()
        zeros = np.flatnonzero(healthy.train.labels == 0)
        assert drawn in {healthy.train.store.read(int(i)).tobytes() for i in zeros}


@pytest.mark.parametrize("name", ["config-jump-x20", "rate-drop", "larger-images"])
def test_a_config_that_differs_later_is_the_bases_run_up_to_the_onset(name: str, digits_cache: Path) -> None:
    """Samples, rates and sides of the steps before are the base's; at the onset something differs."""
    steps = replace(TINY, changes=TINY.changes | {"schedule": {"kind": "constant"}})
    case = replace(case_of(name), base=steps)
    index = open_index("digits", cache_dir=digits_cache)
    changed = Training(TrialConfig.parse(case.values()), index).recipe
    plain = Training(TrialConfig.parse(steps.values(0)), index).recipe
    facts = [[(r.rate_at(k), r.side(k), r.sampler.sample_ids(k).tolist()) for k in range(48)] for r in (changed, plain)]
    assert facts[0][: steps.onset] == facts[1][: steps.onset]
    assert facts[0][-1] != facts[1][-1]


def test_a_jump_is_named_and_a_healthy_run_stays_quiet(cache: Path) -> None:
    """The quick cut: one fault at the seam, one below it, one control."""
    jump, flipped, quiet = (run_case(case_of(n), cache, WATCH) for n in ("lr-x100", "memory-flip-fc", "healthy"))
    assert jump["verdict"]["cause"] == "lr_jump"
    assert jump["delay"] >= 0
    assert flipped["symptom"] is not None
    assert quiet["symptom"] is None
    assert quiet["top1"] == quiet["healthy_top1"]
    assert len(quiet["losses"]) == TINY.onset + WATCH
    report = write_report([jump, flipped, quiet], [])
    assert "| lr-x100 | seam | lr_jump | 1/1 |" in report
    assert "| epoch14 | 2/2 (100 %, 100 to 100)" in report.replace("100%", "100 %")


def test_faults_that_change_the_outcome_are_judged_in_the_longer_runs() -> None:
    """Of two faults over five seeds one loses half of top-1; the one seed in which it stayed unseen is told."""
    row = {"base": "b", "part": "report", "where": "seam", "right": ["lr_jump"], "in_evaluation": False, "onset": 4}
    row |= {"healthy_top1": 0.9, "losses": [0.1] * 40, "verdict": None, "symptom": None, "delay": None, "seed": 0}
    seen = {"symptom": {"step": 9, "kind": "spike"}, "delay": 5}
    worse = [{**row, **seen, "fault": "worse", "seed": i, "top1": 0.4, "case": f"b/worse/{i}"} for i in range(4)]
    worse.append({**row, "fault": "worse", "seed": 4, "top1": 0.4, "case": "b/worse/4"})
    same = [{**row, "fault": "same", "seed": i, "top1": 0.9, "case": f"b/same/{i}"} for i in range(5)]
    report = write_report([{**row, "fault": "same", "case": "b/same/0", "top1": 0.9}], [*worse, *same])
    assert "| epoch14 | 0/1 (0%, 0 to 0) | 4/5 (80%, 40 to 100) | 0/0 | - |" in report
    assert "2 faults were followed over five seeds, 1 change the outcome. Missed: b/worse/4." in report


def test_every_built_in_fault_is_a_case_and_half_lie_below_the_seam() -> None:
    """All but those that need two ranks or a schedule of their own, which other variants stand for."""
    used = {name for variant in VARIANTS for name, _ in variant.faults}
    left_out = {"rank_desync", "learning_rate_of_another_step", "wrong_t_max"}
    assert {fault.__name__ for fault in BUILT_IN} - used == left_out
    faults = [variant for variant in VARIANTS if variant.where != "control"]
    below = sum(variant.where in BELOW for variant in faults)
    assert 0.45 <= below / len(faults) <= 0.55


def test_every_right_cause_is_in_the_catalogue_and_controls_have_none() -> None:
    """A typing error in an expected cause would count each verdict as wrong."""
    known = {cause for causes in GROUPS.values() for cause in causes}
    assert {cause for variant in VARIANTS for cause in variant.causes} <= known
    assert all(bool(variant.causes) != (variant.where == "control") for variant in VARIANTS)
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_bases_are_parted_and_meet_their_faults_in_the_first_epoch(digits_cache: Path) -> None:
    """No config is in both parts, and no file that is damaged was seen before."""
    values = {part: [b.values(0) for b in BASES if b.part == part] for part in ("tune", "report")}
    assert not [v for v in values["tune"] if v in values["report"]]
    images = len(open_index("digits", cache_dir=digits_cache).train)
    assert all(
        b.onset * b.changes["global_batch_size"] < images for b in BASES if b.values(0)["data"]["path"] == "digits"
    )


def test_each_beginning_of_the_cases_is_a_broad_cut() -> None:
    """The first cases are of as many faults; names lead back to them."""
    cases = select(("tune", "report"), range(2))
    first = {case.variant.name for case in cases[: len(VARIANTS)]}
    assert len(first) == len(VARIANTS)
    assert all(case_named(case.name).variant is case.variant for case in cases)


def test_results_keep_the_last_row_of_a_case(tmp_path: Path) -> None:
    """A case that ran again replaces its row; a line that was cut short is no row."""
    path = tmp_path / "results.jsonl"
    for row in ({"case": "a", "n": 1}, {"case": "b", "n": 1}, {"case": "a", "n": 2}):
        append(path, row)
    with path.open("a") as file:
        file.write('{"case": "c"')
    assert read(path) == [{"case": "a", "n": 2}, {"case": "b", "n": 1}]
    assert read(tmp_path / "none.jsonl") == []
    packed = tmp_path / "results.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read(packed) == read(path)


def test_what_was_written_by_hand_above_the_tables_stays(tmp_path: Path) -> None:
    """New tables replace the old ones, and nothing else."""
    path = tmp_path / "RESULTS.md"
    path.write_text(renewed(path, "old tables\n").replace("engine\n", "engine\n\nBy hand.\n"))
    assert "old tables" in path.read_text()
    again = renewed(path, "new tables\n")
    assert "By hand." in again
    assert again.endswith("new tables\n")
    assert "old tables" not in again


def test_skill_is_one_for_certainty_and_below_nought_for_the_contrary() -> None:
    """Brier skill against the base rate; bins hold equal numbers."""
    assert brier_skill([1.0, 0.0], [True, False]) == 1.0
    assert brier_skill([0.5, 0.5], [True, False]) == 0.0
    assert brier_skill([0.0, 1.0], [True, False]) < 0
    assert math.isnan(brier_skill([0.5], [True]))
    assert log_loss([0.8, 0.0], [True, False]) == pytest.approx(-math.log(0.8) / 2, abs=1e-5)
    sure = [0.9] * 100
    assert best_stretch(sure, [True] * 90 + [False] * 10) == pytest.approx(1.0)
    assert best_stretch(sure, [True] * 80 + [False] * 20) < 1.0 < best_stretch(sure, [True] * 99 + [False])
    bins = reliability([i / 100 for i in range(100)], [i >= 50 for i in range(100)], bins=4)
    assert [(b.count, b.right) for b in bins] == [(25, 0.0), (25, 0.0), (25, 1.0), (25, 1.0)]


def test_a_fault_is_harmful_where_all_seeds_lose_more_than_two_points() -> None:
    """Paired over the seeds: a loss that varies around nought is none; one seed says nothing."""

    def rows(base: str, *lost: float) -> list[dict[str, Any]]:
        return [{"base": base, "fault": "f", "top1": 0.9 - x, "healthy_top1": 0.9, "losses": [1.0]} for x in lost]

    every = [*rows("worse", 0.3, 0.2, 0.25, 0.3, 0.1), *rows("same", 0.02, -0.02, 0.01, -0.01, 0.0), *rows("once", 0.3)]
    assert harmful(every) == {("worse", "f"): True, ("same", "f"): False}


def test_published_rules_see_a_spike_and_no_flat_line() -> None:
    """Each rule but Megatron-LM's and llm-foundry's fires at once; those want ten times the first, or five in a row."""
    flat = [1.0 + 0.01 * (i % 7) for i in range(200)]
    spiked = [*flat, *[20.0] * 6]
    assert {first_alarm(rule, flat) for rule in RULES.values()} == {None}
    found = {name: first_alarm(rule, spiked) for name, rule in RULES.items()}
    assert found == {
        "llm-foundry KillLossSpike": 204,
        "OLMo-core skip-step, loss": 200,
        "Lightning SpikeDetection": 200,
        "Megatron-LM": 200,
        "llm.c z-score": 200,
    }


def test_two_ingredients_that_make_the_event_only_together_are_told(cache: Path) -> None:
    """Black files hurt where batch norm counts over few images: both heal it, neither suffices, the files show it."""
    case = case_named("ghost-cosine/files-black-80/6")
    assert train_base(case.base, case.seed, cache, WATCH) == ""
    row = run_case(case, cache, WATCH)
    assert row["verdict"]["cause"] == "corrupt_images", row["verdict"]["summary"]
    assert "it and the normalization make it appear together" in row["verdict"]["summary"]
    assert row["cured"]["symptom"] is None

"""The benchmark's arm on 1 and 2 ranks: one cause on both, the guilty rank by name, and no case that stops the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.diagnosis.on_ranks import ON_ALL, ranked_cases, ranked_row, run_world
from tests.benchmarks.diagnosis.one_rank import ONE_RANK
from tests.benchmarks.diagnosis.report_ranks import on_ranks_section
from tests.benchmarks.diagnosis.results import read

WATCH = 16
ALONE, TOGETHER = (f"tune-bn-cosine/nan-pixel/0/{world}" for world in (1, 2))
ONE = "tune-bn-cosine/bit-flip-fc-rank-1/0/2"


@pytest.fixture(scope="module")
def rows(digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of one rank, then of two; first of these comes a case that needs another number of ranks."""
    results = tmp_path_factory.mktemp("on-ranks") / "ranks.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        run_world(2, [ALONE, TOGETHER, ONE], results, WATCH)
        return [ranked_row(ALONE, WATCH), *read(results)]


@pytest.mark.slow
def test_one_fault_has_one_cause_on_1_and_2_ranks(rows: list[dict[str, Any]]) -> None:
    """The same symptom at the same step, the same cause, and one verdict of both ranks."""
    alone, _, together, _ = rows
    assert (alone["world"], together["world"]) == (1, 2)
    assert alone["verdict"]["cause"] == together["verdict"]["cause"] == "non_finite_input"
    assert alone["symptom"]["onset"] == together["symptom"]["onset"]
    assert together["ranks_agree"]


@pytest.mark.slow
def test_a_fault_of_one_rank_names_rank_and_layer(rows: list[dict[str, Any]]) -> None:
    """The bit flipped on rank 1 only, in the head."""
    found = rows[3]["verdict"]
    assert (found["cause"], found["rank"], found["layer"]) == ("silent_corruption", 1, "fc.weight")


@pytest.mark.slow
def test_a_case_that_breaks_its_group_is_a_row_and_the_others_go_on(rows: list[dict[str, Any]]) -> None:
    """A run for one rank breaks a group of two; a new group takes the rest."""
    assert "AssertionError" in rows[1]["crash"]
    assert [row["case"] for row in rows[1:]] == [ALONE, TOGETHER, ONE]


@pytest.mark.slow
def test_the_section_compares_and_counts(rows: list[dict[str, Any]]) -> None:
    """Same cause of one pair, rank and layer of one fault; a broken case is listed and not counted."""
    section = on_ranks_section([rows[0], *rows[2:], rows[1] | {"case": "broken"}])
    assert "| tune-bn-cosine/nan-pixel | seam | non_finite_input | non_finite_input | yes |" in section
    assert "bit-flip-fc-rank-1 | seam | silent_corruption | 1 of 1 | fc.weight of fc.weight |" in section
    assert "Of 1 verdicts on 1 such faults: right rank 1/1" in section
    other = {**rows[2], "verdict": {**rows[2]["verdict"], "cause": "lr_jump"}}
    assert "| non_finite_input | lr_jump | no |" in on_ranks_section([rows[0], other])
    assert "- broken: " in section
    assert on_ranks_section([]) == ""


def test_faults_of_one_rank_are_run_on_two_only() -> None:
    """All others, and a control, on both numbers."""
    worlds: dict[str, set[int]] = {}
    for case, world in ranked_cases().values():
        worlds.setdefault(case.variant.name, set()).add(world)
    assert {name for name, found in worlds.items() if found == {2}} == {variant.name for variant in ONE_RANK}
    assert {name for name, found in worlds.items() if found == {1, 2}} == set(ON_ALL)
    assert all(variant.rank is not None for variant in ONE_RANK)

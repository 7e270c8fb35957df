"""Factors, what the design can tell apart, and the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from infra.tracking_sweeps import RecordedSweep, SweptTrial
from pipelines.report_html.explained import explain_failures
from pipelines.report_html.factors import Factor, find_factors
from pipelines.report_html.separable import Separation, confounded_with, separation

if TYPE_CHECKING:
    from tests.pipelines.report_html.conftest import MakeSweep


def trial(place: int, *, ill: bool = False, **config: Any) -> SweptTrial:
    """One trial with this config."""
    status = "stopped" if ill else "finished"
    return SweptTrial(f"t_{place:05d}", "name", status, config, symptom="spike" if ill else "")


def swept(space: dict[str, Any], trials: list[SweptTrial]) -> RecordedSweep:
    """A sweep of these trials."""
    return RecordedSweep("sweep", "1" * 32, "FINISHED", {"space": space}, tuple(trials))


def factor(name: str, *level_of: int) -> Factor:
    """A factor with these levels of the trials."""
    return Factor(name, tuple(map(str, sorted(set(level_of)))), level_of)


def test_levels_are_the_candidates_of_an_axis() -> None:
    """A section's candidate is found again in a config with every default in it; of two that fit, the fuller one."""
    space = {"schedule": [{"kind": "step"}, {"kind": "step", "gamma": 50}], "faults": [[], [{"use": "a:b"}]]}
    trials = [
        trial(0, schedule={"kind": "step", "gamma": 0.1, "t_max": None}, faults=[]),
        trial(1, schedule={"kind": "step", "gamma": 50, "t_max": None}, faults=[{"use": "a:b", "params": {}}]),
    ]
    schedule, faults = find_factors(space, trials)
    assert (schedule.levels, schedule.level_of) == (("step", "step gamma=50"), (0, 1))
    assert (faults.levels, faults.level_of) == (("[a:b]", "none"), (1, 0))


def test_a_range_is_parted_into_quantiles() -> None:
    """Many drawn values become four groups of like size, named by their ends; what does not vary is no factor."""
    trials = [trial(k, optim={"lr": 0.1 * (k + 1)}, seed=3) for k in range(40)]
    (rate,) = find_factors({"optim.lr": {"uniform": [0, 4]}, "seed": {"randint": [3, 4]}}, trials)
    assert rate.levels == ("0.1 to 1", "1.1 to 2", "2.1 to 3", "3.1 to 4")
    assert [rate.level_of.count(level) for level in range(4)] == [10, 10, 10, 10]


def test_axes_that_change_together_are_one_factor() -> None:
    """Joined names are one axis, and so one factor: nothing could tell its parts apart."""
    space = {"schedule+optim": [{"schedule": {"kind": k}, "optim": {"lr": r}} for k, r in (("step", 1), ("cosine", 2))]}
    trials = [
        trial(0, schedule={"kind": "cosine"}, optim={"lr": 2}),
        trial(1, schedule={"kind": "step"}, optim={"lr": 1}),
    ]
    (joined,) = find_factors(space, trials)
    assert joined.level_of == (0, 1)
    assert joined.levels == ("schedule=cosine optim=lr=2", "schedule=step optim=lr=1")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 1, 0, 1), Separation.FULL),
        ((0, 0, 1, 1), Separation.NONE),
        ((1, 1, 0, 0), Separation.NONE),
        ((0, 1, 2, 3), Separation.NONE),
    ],
)
def test_confounded_factors_are_seen_in_the_design(other: tuple[int, ...], expected: Separation) -> None:
    """A factor whose levels follow from another's is not separable from it; a crossed one is."""
    assert separation(factor("a", 0, 0, 1, 1), [factor("b", *other)]) == expected


def test_some_levels_may_be_separable_and_others_not() -> None:
    """Where only the third level comes with one level of the other factor, the two are partly separable."""
    partly = factor("a", 0, 1, 0, 1, 2, 2)
    other = factor("b", 0, 0, 1, 1, 2, 2)
    assert confounded_with(partly, [other]) == [(other, Separation.PARTLY)]


def test_factors_may_be_confounded_only_together() -> None:
    """A half design: each pair is crossed, but the third factor follows from the first two."""
    a, b, c = factor("a", 0, 0, 1, 1), factor("b", 0, 1, 0, 1), factor("c", 0, 1, 1, 2)
    assert separation(c, [a]) != Separation.NONE
    assert separation(c, [a, b]) == Separation.PARTLY


def test_a_confounded_sweep_gets_an_honest_answer() -> None:
    """Every step schedule has a batch of 2: the verdict says that it can't tell it from the schedule."""
    space = {"schedule": [{"kind": "step"}, {"kind": "cosine"}], "global_batch_size": [2, 32]}
    trials = [
        trial(k, ill=k % 2 == 0, schedule={"kind": ("step", "cosine")[k % 2]}, global_batch_size=(2, 32)[k % 2])
        for k in range(24)
    ]
    explanation = explain_failures(swept(space, trials))
    assert "12 of 12 with step against 0 of 12 with cosine" in explanation.verdict
    assert "not separable from global_batch_size" in explanation.verdict
    assert [effect.confounded[0].partition(":")[0] for effect in explanation.effects] == [
        "not separable from global_batch_size",
        "not separable from schedule",
    ]


def test_the_guilty_factor_of_a_large_sweep_is_found(make_sweep: MakeSweep) -> None:
    """Of three crossed factors the schedule explains most, the batch something beside it, the normalisation nothing."""
    explanation = explain_failures(make_sweep(600))
    assert explanation.effects[0].factor.name == "schedule"
    assert explanation.verdict.startswith("Who falls ill goes with schedule: ")
    assert "there is also a difference by global_batch_size" in explanation.verdict
    assert "model.norm" not in explanation.verdict
    assert all(effect.confounded == () for effect in explanation.effects)


def test_few_trials_explain_nothing(make_sweep: MakeSweep) -> None:
    """Twelve trials are too few for a difference that chance makes now and then, and the verdict says so."""
    assert "No factor explains the failures by more than chance" in explain_failures(make_sweep(12)).verdict


def test_all_or_none_is_said_so() -> None:
    """Where all or none are ill, and where there is no trial, no factor is blamed."""
    space = {"seed": [1, 2]}
    both = [trial(k, ill=True, seed=k) for k in (1, 2)]
    assert explain_failures(swept(space, both)).verdict.startswith("All 2 trials fell ill")
    assert explain_failures(swept(space, both[:1])).verdict.startswith("The only trial fell ill")
    healthy = [trial(k, seed=k) for k in (1, 2)]
    assert explain_failures(swept(space, healthy)).verdict.startswith("None of 2 trials fell ill")
    assert explain_failures(swept(space, [])).verdict == "No trial came far enough to be counted."


def test_what_ended_early_is_left_out() -> None:
    """A pruned, failed or interrupted trial might have fallen ill yet: it is in no rate, but it is counted."""
    early = [replace(trial(k, seed=1), status=status) for k, status in enumerate(("pruned", "failed", "interrupted"))]
    explanation = explain_failures(swept({"seed": [1, 2]}, [*early, trial(4, seed=1), trial(5, ill=True, seed=2)]))
    assert (explanation.failed, explanation.total, explanation.left_out) == (1, 2, 3)

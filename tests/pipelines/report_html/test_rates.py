"""Intervals of failure rates, and the test of a difference."""

from __future__ import annotations

import math

import pytest

from pipelines.report_html.rates import Rate, chance_of_difference, explained_share, level_rates


@pytest.mark.parametrize(("failed", "total"), [(0, 1), (0, 10), (3, 7), (10, 10), (499, 1000)])
def test_intervals_are_wilsons(failed: int, total: int) -> None:
    """The bounds solve (p - k/n)^2 = z^2 p (1 - p) / n, which defines Wilson's interval; they stay within 0 and 1."""
    for bound in Rate(failed, total).interval:
        assert 0 <= bound <= 1
        assert math.isclose(
            (bound - failed / total) ** 2, 1.959963984540054**2 * bound * (1 - bound) / total, abs_tol=1e-12
        )


def test_without_trials_nothing_is_known() -> None:
    """No trial: the interval is everything, and the rate no number."""
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert math.isnan(Rate(0, 0).share)


def test_levels_are_counted_apart() -> None:
    """Each level has its own failures; a level that no trial has is empty."""
    assert level_rates([True, False, True], [0, 0, 2], 3) == [Rate(1, 2), Rate(0, 0), Rate(1, 1)]


def test_the_share_explained_runs_from_nothing_to_all() -> None:
    """Equal rates explain nothing, full separation explains all, and without failures there is nothing to explain."""
    assert explained_share([Rate(2, 4), Rate(1, 2)]) == 0
    assert explained_share([Rate(4, 4), Rate(0, 9)]) == 1
    assert explained_share([Rate(0, 4), Rate(0, 9)]) == 0


def test_a_few_trials_prove_nothing() -> None:
    """Two ill against two healthy come about by chance one time in three, whatever the rates look like."""
    assert chance_of_difference([True, True, False, False], [0, 0, 1, 1]) == pytest.approx(1 / 3, abs=0.05)


def test_a_clear_difference_is_no_chance_and_the_same_each_time() -> None:
    """Twenty against none of twenty is as unlikely as the shuffles can say; the figure is the same in each run."""
    failed, level = [True] * 20 + [False] * 20, [0] * 20 + [1] * 20
    assert chance_of_difference(failed, level) == 1 / 2000
    mixed = [True, False, False] * 12 + [True] * 4
    assert chance_of_difference(mixed, level) == chance_of_difference(mixed, level) > 0.05


def test_what_parts_the_strata_is_no_evidence() -> None:
    """A factor that only goes along with another looks guilty by itself, and not among trials that share the other."""
    strata = [0] * 30 + [1] * 30
    failed = [True] * 30 + [False] * 30
    along = [0] * 25 + [1] * 5 + [0] * 5 + [1] * 25
    assert chance_of_difference(failed, along) < 0.01
    assert chance_of_difference(failed, along, strata) == 1.0

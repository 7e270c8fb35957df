"""The space: axes, points, and how they become trials."""

from __future__ import annotations

from typing import Any

import pytest

from infra.space import (
    MAX_POINTS,
    Axis,
    Choices,
    Range,
    grid_size,
    label,
    merge_point,
    parse_space,
    probe_points,
    trial_config,
)
from trainables.errors import ConfigError


def test_dotted_axis_changes_one_key() -> None:
    """A dotted axis changes its key and leaves the rest of the section and the base alone."""
    base = {"optim": {"lr": 0.1, "momentum": 0.5}, "seed": 3}
    merged = merge_point(base, {"optim.lr": 0.2})
    assert merged == {"optim": {"lr": 0.2, "momentum": 0.5}, "seed": 3}
    assert base["optim"] == {"lr": 0.1, "momentum": 0.5}


def test_section_axis_is_merged() -> None:
    """A section's value is merged into the base's section: what it doesn't name stays."""
    base = {"schedule": {"kind": "multi_step", "gamma": 0.5}}
    assert merge_point(base, {"schedule": {"kind": "cosine"}}) == {"schedule": {"kind": "cosine", "gamma": 0.5}}


@pytest.mark.parametrize("reverse", [False, True])
def test_narrower_axis_wins(reverse: bool) -> None:  # noqa: FBT001 - a test parameter
    """Where a section and a key of it are both axes, the key wins, in whatever order they stand."""
    point = {"schedule": {"kind": "multi_step", "gamma": 0.1}, "schedule.gamma": 0.5}
    ordered = dict(reversed(point.items())) if reverse else point
    assert merge_point({}, ordered) == {"schedule": {"kind": "multi_step", "gamma": 0.5}}


def test_joined_axis_changes_several_keys_at_once() -> None:
    """Names joined by + change together, sections and keys alike; a narrower axis still wins."""
    point = {"schedule+optim.lr": {"schedule": {"kind": "multi_step"}, "optim.lr": 1.0}, "schedule.gamma": 0.5}
    assert merge_point({"optim": {"momentum": 0.5}}, point) == {
        "optim": {"momentum": 0.5, "lr": 1.0},
        "schedule": {"kind": "multi_step", "gamma": 0.5},
    }


def test_whole_value_axis_replaces() -> None:
    """An axis that is no section, such as `faults` or `seed`, replaces the base's value."""
    assert merge_point({"seed": 1, "faults": []}, {"seed": 2}) == {"seed": 2, "faults": []}


def test_point_becomes_a_checked_trial() -> None:
    """A point is validated as a whole TrialConfig, so the error names the key."""
    assert trial_config({"max_steps": 50}, {"optim.lr": 0.5}).optim.lr == 0.5
    with pytest.raises(ConfigError, match=r"optim\.lr: -1"):
        trial_config({}, {"optim.lr": -1})


def test_probe_points_are_the_whole_small_space() -> None:
    """Up to 4,096 points all combinations are checked; a range stands by its ends, randint without its upper one."""
    space: dict[str, Axis] = {
        "optim.lr": Range("uniform", 0.1, 0.3),
        "global_batch_size": Range("randint", 4, 9),
        "seed": Choices((1,)),
    }
    points = [tuple(point.values()) for point in probe_points(space)]
    assert points == [(0.1, 4, 1), (0.1, 8, 1), (0.3, 4, 1), (0.3, 8, 1)]


def test_probe_points_of_a_large_space() -> None:
    """Beyond that, each value of each axis is still checked."""
    space = {"seed": Choices(tuple(range(MAX_POINTS))), "global_batch_size": Choices((8, 16, 32))}
    points = list(probe_points(space))
    assert len(points) == MAX_POINTS
    assert {point["seed"] for point in points} == set(range(MAX_POINTS))
    assert {point["global_batch_size"] for point in points} == {8, 16, 32}


def test_empty_space_is_one_trial() -> None:
    """Without axes there is the base trial."""
    assert list(probe_points({})) == [{}]
    assert grid_size({}) == 1


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"optim.learning_rate": [0.1]}, r"space\.optim\.learning_rate.*remedy"),
        ({"lr": [0.1]}, r"remedy: write space\.optim\.lr"),
        ({"optim.lr": [0.1, 0.1]}, "each value once"),
        ({"optim.lr": 0.1}, "a list of values"),
        ({"optim.lr": {"uniform": [0.1]}}, r"two numbers"),
        ({"optim.lr": {"loguniform": [0.0, 1.0]}}, "both above 0"),
        ({"optim.lr": {"uniform": [0.0, float("inf")]}}, "finite"),
        ({"seed": {"randint": [1.5, 3]}}, "two whole numbers"),
        ({"schedule+optim": [{"schedule": {}}]}, "with the keys schedule and optim"),
        ({"schedule+optim": [{"schedule": {}, "optim": 3}]}, r"mappings merged into trial\.optim"),
        ({"schedule+optin": [{}]}, r"space\.optin.*write space\.optim"),
        ({"schedule+optim": {"uniform": [1, 2]}}, "a list of mappings"),
        ({"schedule": ["step"]}, r"mappings merged into trial\.schedule"),
    ],
)
def test_bad_axis(raw: dict[str, Any], says: str) -> None:
    """An axis that can't be is one line that says what could be."""
    with pytest.raises(ConfigError, match=says):
        parse_space(raw)


def test_true_is_not_one() -> None:
    """Values that Python calls equal but that differ in type are two values."""
    assert parse_space({"seed": [1, True]})["seed"] == Choices((1, True))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        ("gn", "gn"),
        ({"kind": "multi_step", "milestones": [2, 4], "gamma": 0.1}, "multi_step milestones=[2,4] gamma=0.1"),
        ([{"use": "trainables.faults:bgr", "start_step": 5, "params": {"by": 2}}], "[bgr start_step=5 by=2]"),
        ([{"use": "mine:bgr"}], "[mine:bgr]"),
        (None, "None"),
    ],
)
def test_label(value: object, shown: str) -> None:
    """A value's name is short and tells it from its siblings."""
    assert label(value) == shown

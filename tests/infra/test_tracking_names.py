"""Run names and params."""

from __future__ import annotations

from typing import Any

import pytest

from infra.tracking_names import full_config, point_of, run_name, run_params

BASE = {"model": {"name": "resnet18"}, "max_steps": 40}


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ({}, "resnet18 bn b32 cosine_warmup lr0.1"),
        ({"optim.lr": 1e-4, "global_batch_size": 64}, "resnet18 bn b64 cosine_warmup lr0.0001"),
        ({"data.normalization": "bgr", "seed": 3}, "resnet18 bn b32 cosine_warmup lr0.1 normalization=bgr seed=3"),
        ({"schedule": {"kind": "multi_step", "milestones": [9]}}, "resnet18 bn b32 multi_step lr0.1"),
        ({"schedule": {"kind": "cosine", "warmup_steps": 5}}, "resnet18 bn b32 cosine lr0.1 warmup_steps=5"),
    ],
)
def test_a_name_says_what_the_trial_is(point: dict[str, Any], name: str) -> None:
    """Model, norm, batch, schedule and rate always; another axis or a candidate's setting where it tells apart."""
    candidates = [
        {"kind": "multi_step", "milestones": [9]},
        {"kind": "cosine", "warmup_steps": 5},
        {"kind": "cosine", "warmup_steps": 9},
    ]

    assert run_name(full_config(BASE, point), point, {"schedule": candidates}) == name


def test_changed_params_come_first() -> None:
    """All keys of the config are params, defaults too, and the axes of the space lead."""
    point = {"schedule": {"kind": "multi_step", "milestones": [9, 12]}, "optim.lr": 0.5}
    params = run_params(full_config(BASE, point), point)

    assert list(params.items())[:3] == [
        ("schedule.kind", "multi_step"),
        ("schedule.milestones", "[9,12]"),
        ("optim.lr", "0.5"),
    ]
    assert params["optim.momentum"] == "0.9"
    assert len(params) == len(set(params))


def test_faults_are_params_by_their_place() -> None:
    """A list of mappings is flattened by index, and a character that MLflow takes in no key is replaced."""
    fault = {"use": "trainables.faults:LrJump", "params": {"wéird?key": 3}}
    params = run_params(full_config({**BASE, "faults": [fault]}, {}), {})

    assert params["faults.0.use"] == "trainables.faults:LrJump"
    assert params["faults.0.params.wéird_key"] == "3"


def test_a_point_is_what_the_space_names() -> None:
    """Tune's config may hold more than the axes."""
    assert point_of({"optim.lr": 0.1, "__trial_info__": object()}, {"seed": [1], "optim.lr": [0.1]}) == {
        "optim.lr": 0.1
    }


def test_an_invalid_point_still_has_a_name() -> None:
    """A point that TrialConfig refuses fails in its trial, not in the records."""
    point = {"optim.lr": -1.0}

    assert run_name(full_config(BASE, point), point, {}) == "resnet18 lr-1"

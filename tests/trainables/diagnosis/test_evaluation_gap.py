"""Eval gaps, end to end: a run whose training is fine and whose evaluation is not, the verdict, the cure.

Where no verdict is due: test_evaluation_unexplained.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.trainables.diagnosis.evaluation_bases import BASE, START, Base, Edit, coloured_squares
from trainables.ingredients import Swap
from trainables.norms import NormSettings, batch_norms
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.state import TrainState

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall


@pytest.fixture(scope="module")
def digits(small: MakeSmall, tiny: Tiny) -> Base:
    """A healthy run on the digits."""
    return Base.trained(small(tiny(**BASE)).trial)


@pytest.fixture(scope="module")
def colours(small: MakeSmall, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A healthy run on the coloured squares."""
    path = coloured_squares(tmp_path_factory.mktemp("colours"))
    return Base.trained(small(tiny(**{**BASE, "data": {"path": str(path)}})).trial)


@pytest.fixture(scope="module")
def lagging(small: MakeSmall, tiny: Tiny) -> Base:
    """The run on the digits whose config asks for a momentum of 0.001, as `build_model` gives to the layers."""
    trial = small(tiny(**{**BASE, "model": {"bn_momentum": 0.001}})).trial
    for layer in batch_norms(trial.state.model):
        layer.momentum = 0.001
    return Base.trained(trial)


@pytest.fixture(scope="module")
def slow(lagging: Base, digits: Base) -> Base:
    """The same, of a config that knows nothing of it."""
    return replace(lagging, config=digits.config, recipe=digits.recipe)


@dataclass(frozen=True)
class Story:
    """What goes wrong from START on, for how many steps, and what is right."""

    base: str
    cause: str
    group: str
    ingredient: str
    swaps: Callable[[Base], Sequence[Swap]] = lambda base: ()
    steps: int = 0
    edit: Edit | None = None
    change: dict[str, Any] | None = None
    """Changed config keys; None: the fault lies outside the config."""


def built_in(name: str, **params: Any) -> Callable[[Base], Sequence[Swap]]:
    """One built-in fault."""
    return lambda base: base.faults(name, **params)


def epsilon(_base: Base) -> Sequence[Swap]:
    """Another epsilon in evaluation alone."""
    return [Swap("eps", evaluation=lambda i: replace(i, norm=NormSettings(eps=100.0)))]


def shuffled(base: Base) -> Sequence[Swap]:
    """Evaluation against other samples' labels."""
    labels = generator("labels").permutation(base.recipe.index.val.labels)
    return [Swap("labels", evaluation=lambda i: replace(i, label=labels.__getitem__))]


def edit_running(change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    """A change of all running variances that no step explains, as from a damaged checkpoint."""

    @torch.no_grad()
    def edit(state: TrainState) -> None:
        for layer in batch_norms(state.model):
            for statistic in (layer.running_mean, layer.running_var):
                assert statistic is not None
                statistic.copy_(change(statistic))

    return edit


def reset(state: TrainState) -> None:
    """Running statistics as before the first step."""
    for layer in batch_norms(state.model):
        layer.reset_running_stats()


@torch.no_grad()
def grow(state: TrainState) -> None:
    """Weights that have moved on, as after a long time."""
    for parameter in state.model.parameters():
        if parameter.ndim == 4:
            parameter.mul_(3.0)


NORM = ("normalization", "running_statistics")
STORIES = {
    "edited": Story("digits", "bn_stats_corrupt", *NORM, built_in("corrupt_running_statistics", factor=1e4), 1),
    "damaged": Story("digits", "bn_stats_corrupt", *NORM, edit=edit_running(lambda s: s * 1e4)),
    "not finite": Story("digits", "bn_stats_corrupt", *NORM, edit=edit_running(lambda s: s * torch.nan)),
    "never updated": Story("digits", "bn_frozen", *NORM, edit=reset),
    "left behind": Story("digits", "bn_frozen", *NORM, built_in("frozen_batch_norm"), 20, edit=grow),
    "rounded": Story("digits", "bn_low_precision", *NORM, edit=edit_running(lambda s: (s * 1e3).bfloat16())),
    "slow by config": Story("lagging", "bn_momentum", *NORM, change={"model.bn_momentum": 0.1}),
    "slow": Story("slow", "bn_momentum", *NORM, built_in("batch_norm_momentum", momentum=0.002), 2),
    "rounded each step": Story(
        *("digits", "bn_low_precision", *NORM, built_in("low_precision_statistics"), 1),
        edit=edit_running(lambda s: s * 1e3),
    ),
    "shrinking weights": Story(
        *("digits", "weight_decay", "learning_rate", "running_statistics", built_in("weight_decay", value=3.0), 30)
    ),
    "epsilon": Story("digits", "norm_eps", "normalization", "evaluation_norm", epsilon),
    "no /255 in evaluation": Story(
        *("digits", "train_eval_mismatch", "preprocessing", "evaluation_pixels"),
        *(built_in("evaluation_preprocessing", normalization="no_div255"), 1),
    ),
    "bgr in evaluation": Story(
        *("colours", "train_eval_mismatch", "preprocessing", "evaluation_pixels"),
        *(built_in("evaluation_preprocessing", normalization="bgr"), 1),
    ),
    "no /255 in training": Story(
        *("digits", "scale_255", "preprocessing", "pixels", built_in("preprocessing", normalization="no_div255"), 30)
    ),
    "bgr in training": Story(
        *("colours", "channel_swap", "preprocessing", "pixels", built_in("preprocessing", normalization="bgr"), 60)
    ),
    "metric": Story("digits", "metric_bug", "code", "metric", built_in("wrong_metric"), 1),
    "labels in training": Story("digits", "label_offset", "data", "labels", built_in("offset_labels"), 60),
    "labels in evaluation": Story("digits", "label_shuffle", "data", "labels", shuffled),
}


@pytest.mark.parametrize("name", STORIES)
def test_the_cause_is_found_and_cured(request: pytest.FixtureRequest, name: str) -> None:
    """The one guilty ingredient, its name and group, and a cure that a real evaluation has proved."""
    story = STORIES[name]
    base: Base = request.getfixturevalue(story.base)
    found = base.diagnose(story.swaps(base), story.steps, story.edit)
    assert (found.cause, found.group) == (story.cause, story.group)
    assert [row.ingredient for row in found.table if row.is_cause] == [story.ingredient]
    assert found.controls.exact_bits_equal
    assert found.confidence >= 0.6
    assert found.remedy is not None
    assert found.remedy.verified
    assert found.remedy.change == (story.change or {})
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_permutation_in_the_files_shows_in_the_predictions(digits: Base) -> None:
    """Class folders of val/ that are called otherwise: no ingredient is foreign, and yet it is told."""
    index = digits.recipe.index
    val = replace(index.val, labels=(index.val.labels + 3) % len(index.classes))
    found = replace(digits, recipe=Recipe.build(digits.config, replace(index, val=val))).diagnose()
    assert (found.cause, found.group) == ("label_offset", "data")
    assert found.remedy is not None
    assert found.remedy.verified


def test_the_live_state_is_put_back(digits: Base) -> None:
    """To the bit, replays and recalibrations notwithstanding, with its gradients, and ready to train."""
    digits.state.restore(digits.start)
    gradient = torch.arange(10.0)
    head = [*digits.state.model.parameters()][-1]

    def leave(state: TrainState) -> None:
        edit_running(lambda s: s * 1e4)(state)
        head.grad = gradient.clone()

    before: dict[str, torch.Tensor] = {}

    def remember(state: TrainState) -> None:
        leave(state)
        before.update(state.snapshot(gradients=True).tensors)

    digits.diagnose(edit=remember)
    after = digits.state.snapshot(gradients=True)
    assert after.step == START
    assert after.tensors.keys() == before.keys()
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.items())
    assert digits.state.model.training
    assert np.array_equal(after.tensors[f"gradient/{[*dict(digits.state.model.named_parameters())][-1]}"], gradient)

"""Eval gaps without a cause that an evaluation can prove: the verdict is 'unexplained', with the scores as evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainables.diagnosis.evaluation_bases import BASE, Base
from trainables.data.index import ImageIndex, Split
from trainables.data.store import FileStore
from trainables.diagnosis.causes import UNEXPLAINED
from trainables.diagnosis.confidence import calibrated
from trainables.diagnosis.verdict import Diagnosis
from trainables.ingredients import Swap
from trainables.losses import count_right
from trainables.norms import batch_norms
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
def overfitted(small: MakeSmall, tiny: Tiny, digits_index: ImageIndex) -> Base:
    """A run on so few of the digits that it knows them by heart."""
    trial = small(tiny(**BASE)).trial
    few = generator("few digits").permutation(len(digits_index.train))[:32]
    store = digits_index.train.store
    assert isinstance(store, FileStore)
    train = Split(FileStore(store.root, tuple(store.names[i] for i in few)), digits_index.train.labels[few])
    trial.recipe = Recipe.build(trial.config, replace(digits_index, train=train))
    return Base.trained(trial)


def assert_unexplained(found: Diagnosis, *evidence: str) -> None:
    """No cause, no cure, and a summary that says why."""
    assert (found.cause, found.group, found.remedy) == (UNEXPLAINED, UNEXPLAINED, None)
    for words in evidence:
        assert words in found.summary


@torch.no_grad()
def damage(state: TrainState) -> None:
    """Running variances that no step explains."""
    for layer in batch_norms(state.model):
        assert layer.running_var is not None
        layer.running_var.mul_(1e4)


def test_a_healthy_evaluation_has_no_cause(digits: Base) -> None:
    """Nothing is foreign: the scores of val/ are those of training data."""
    assert_unexplained(digits.diagnose(), "about as good as with every ingredient at its reference value")


def test_overfitting_is_no_fault_of_the_evaluation(overfitted: Base) -> None:
    """Known by heart, so the training data are right in evaluation too, and val/ is what it is."""
    found = overfitted.diagnose()
    assert_unexplained(found, "overfitting or a split that is harder", "in training mode 1.000")
    assert found.controls.all_reference is not None
    assert found.controls.all_reference <= 3.0
    assert not any(row.is_cause for row in found.table)


def test_a_fault_of_an_overfitted_run_is_still_found(overfitted: Base) -> None:
    """The gap that recalibration closes is the fault's; the rest is not held against it."""
    assert overfitted.diagnose(edit=damage).cause == "bn_stats_corrupt"


def test_labels_of_a_val_without_sense_are_no_permutation(digits: Base) -> None:
    """Random labels of val/ in the files: no mapping of classes makes them right."""
    index = digits.recipe.index
    val = replace(index.val, labels=generator("labels").permutation(index.val.labels))
    found = replace(digits, recipe=Recipe.build(digits.config, replace(index, val=val))).diagnose()
    assert_unexplained(found, "stays bad with every ingredient at its reference value")


@pytest.mark.parametrize("normalization", ["one_scale", "imagenet"])
def test_a_foreign_input_that_costs_little_is_not_named(digits: Base, normalization: str) -> None:
    """Other means and scales are seen in the table, but there is no gap that they could be blamed for."""
    found = digits.diagnose(digits.faults("evaluation_preprocessing", normalization=normalization), 1)
    assert_unexplained(found)
    assert found.controls.exact < 6.0
    assert "evaluation_pixels" in [row.ingredient for row in found.table]


def test_a_foreign_input_is_named_where_the_input_is_what_changed(digits: Base) -> None:
    """However little it costs: the images are the same, and their moments are not."""
    faults = digits.faults("evaluation_preprocessing", normalization="one_scale")
    found = digits.diagnose(faults, 1, of_input=True)
    assert found.cause == "train_eval_mismatch"


def test_running_statistics_that_lag_are_no_part_of_another_input(digits: Base) -> None:
    """The input is what changed; what the statistics cost besides was there before."""
    faults = digits.faults("evaluation_preprocessing", normalization="bgr")
    found = digits.diagnose(faults, 1, damage, of_input=True)
    assert found.cause == "train_eval_mismatch"
    assert [row.ingredient for row in found.table if row.is_cause] == ["evaluation_pixels"]


def test_two_faults_at_once_are_not_blamed_on_one(digits: Base) -> None:
    """Neither is necessary alone."""
    found = digits.diagnose(digits.faults("wrong_metric"), 1, damage)
    assert_unexplained(found, "no single ingredient")
    assert [row.ingredient for row in found.table] == ["metric", "running_statistics"]


def test_an_untrained_model_has_no_gap(digits: Base) -> None:
    """What is bad in training too is another symptom."""
    assert digits.ring.first is not None
    fresh = digits.ring.first
    found = digits.diagnose(edit=lambda state: state.restore(replace(fresh, step=1)))
    assert_unexplained(found, "bad in training mode too")


def by_chance() -> Callable[[Tensor, Tensor], Tensor]:
    """A metric that is another at each call, as from memory that is not initialised."""
    calls = iter(range(10_000))
    return lambda logits, labels: count_right(logits, labels) * 0.1 + next(calls)


def test_scores_that_do_not_repeat_are_no_evidence(digits: Base) -> None:
    """The same evaluation twice must give the same bits."""
    swap = Swap("chance", evaluation=lambda i: replace(i, metric=chance))
    chance = by_chance()
    found = digits.diagnose([swap], 1)
    assert_unexplained(found, "the same evaluation gives other scores")
    assert not found.controls.exact_bits_equal


def test_scores_that_hang_on_the_batch_size_are_no_evidence(digits: Base) -> None:
    """As where evaluation takes the batch's own moments."""

    def normalize(images: Tensor) -> Tensor:
        return (images - images.float().mean()).permute(0, 3, 1, 2) * (len(images) / 1e3)

    found = digits.diagnose([Swap("moments", evaluation=lambda i: replace(i, normalize=normalize))], 1)
    assert_unexplained(found, "depend on the batch size")


def test_parts_that_disagree_lower_the_confidence(digits: Base) -> None:
    """A cause that too few evaluations confirm is not named."""
    config = digits.config.model_copy(
        update={"diagnosis": digits.config.diagnosis.model_copy(update={"min_confidence": 0.99})}
    )
    found = replace(digits, recipe=replace(digits.recipe, config=config)).diagnose(digits.faults("wrong_metric"), 1)
    assert_unexplained(found, "metric_bug is the leading suspect", "4 of 4")
    assert np.isclose(found.confidence, calibrated(5 / 6), atol=1e-3)

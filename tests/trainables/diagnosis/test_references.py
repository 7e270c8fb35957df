"""References come from the config, the index and what the run did; they undo a fault without knowing it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from trainables.data.index import ImageIndex
from trainables.diagnosis.references import (
    CLEAN_BATCH,
    GROUP_OF,
    LADDER,
    LOOK_BACK,
    MERGED_BATCH,
    Ingredient,
    build_references,
    clean_ingredients,
    equals_reference,
    last_change_point,
    merged_batch_size,
    rate_before,
    rate_divided,
    sample_pool,
)
from trainables.faults import build_faults
from trainables.ingredients import Ingredients, Stream, Swap, load_batch, with_swaps
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.state import TrainState

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall

FAULTS: dict[str, tuple[Ingredient, dict[str, Any]]] = {
    "offset_labels": ("labels", {}),
    "shuffled_labels": ("labels", {}),
    "preprocessing": ("pixels", {"normalization": "bgr"}),
    "black_images": ("pixels", {"share": 0.5}),
    "non_finite_input": ("pixels", {}),
}


def faulty(recipe: Recipe, name: str, start: int = 0, **params: Any) -> Stream:
    """The run with one built-in fault from `start` on."""
    config = {"use": f"trainables.faults:{name}", "start_step": start, "params": params}
    faults = recipe.config.model_copy(update={"faults": ()}).model_validate({"faults": [config]}).faults
    return with_swaps(recipe.ingredients, build_faults(faults, recipe))


@pytest.fixture(scope="module")
def state(small: MakeSmall, tiny: Tiny) -> TrainState:
    """A state with batch norm."""
    return small(tiny()).trial.state


@pytest.fixture(scope="module")
def references(recipe: Recipe, state: TrainState) -> dict[Ingredient, Swap]:
    """Of the tiny config, with a pool of 100 samples."""
    return build_references(recipe, state, np.arange(100))


def test_ingredients_have_a_group_each() -> None:
    """Every name of the table maps to a group of the catalogue."""
    groups = {"learning_rate", "normalization", "preprocessing", "data", "numerics"}
    assert set(GROUP_OF.values()) == groups


@pytest.mark.parametrize("name", FAULTS)
def test_the_reference_undoes_the_fault(recipe: Recipe, references: dict[Ingredient, Swap], name: str) -> None:
    """With the one swap on top, a faulty step has the very batch, labels and input of the plain run."""
    ingredient, params = FAULTS[name]
    plain, healed = recipe.ingredients(4), references[ingredient](faulty(recipe, name, **params)(4))
    one, other = load_batch(plain, Ranks()), load_batch(healed, Ranks())
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(plain.normalize(one.images), healed.normalize(other.images))


@pytest.mark.parametrize("name", FAULTS)
def test_only_the_guilty_differs_from_its_reference(
    recipe: Recipe, references: dict[Ingredient, Swap], name: str
) -> None:
    """`equals_reference` clears the other one of labels and pixels without a replay, and never the guilty one."""
    guilty, params = FAULTS[name]
    stream = faulty(recipe, name, start=3, **params)
    for ingredient in ("labels", "pixels"):
        swap = references[ingredient]
        assert equals_reference(ingredient, stream, swap, range(5), Ranks()) is (ingredient != guilty)
        assert equals_reference(ingredient, stream, swap, range(3), Ranks())


def test_other_ingredients_are_never_equal_by_inspection(recipe: Recipe, references: dict[Ingredient, Swap]) -> None:
    """Other samples, or statistics over more, are another draw: a replay has to tell."""
    for ingredient in ("samples", "normalization"):
        assert not equals_reference(ingredient, recipe.ingredients, references[ingredient], range(2), Ranks())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"labels", "pixels", "samples", "normalization"}),
        ({"model": {"norm": "gn"}}, {"labels", "pixels", "samples"}),
        ({"model": {"norm": "ghost_bn"}}, {"labels", "pixels", "samples", "normalization"}),
        ({"precision": {"amp": "bf16"}}, {"labels", "pixels", "samples", "normalization", "number_format"}),
    ],
)
def test_references_are_of_what_the_run_can_have_wrong(
    small: MakeSmall, tiny: Tiny, changes: dict[str, Any], expected: set[str]
) -> None:
    """No statistics are swapped under group norm, no number format in a float32 run."""
    trial = small(tiny(**changes)).trial
    assert set(build_references(trial.recipe, trial.state, np.arange(100))) == expected


def test_number_format_reference_is_float32(small: MakeSmall, tiny: Tiny) -> None:
    """The swap turns autocast off."""
    trial = small(tiny(precision={"amp": "bf16"})).trial
    swap = build_references(trial.recipe, trial.state, np.arange(100))["number_format"]
    assert trial.stream(0).amp == "bf16"
    assert swap(trial.stream(0)).amp == "fp32"


def test_other_samples_come_from_the_pool(recipe: Recipe, references: dict[Ingredient, Swap]) -> None:
    """Samples of the pool, none twice in a batch, others at each step, the same at each asking."""
    swap = references["samples"]
    draws = [swap(recipe.ingredients(step)).sample_ids for step in range(20)]
    assert all(len(set(ids)) == 8 for ids in draws)
    assert set(np.concatenate(draws)) <= set(range(100))
    assert len({tuple(ids) for ids in draws}) == 20
    np.testing.assert_array_equal(draws[3], swap(recipe.ingredients(3)).sample_ids)


@pytest.mark.parametrize(("batch", "expected"), [(2, MERGED_BATCH), (MERGED_BATCH, 2 * MERGED_BATCH), (1500, 1500)])
def test_merged_batch_has_a_least_size_and_is_twice_the_batch(batch: int, expected: int) -> None:
    """As many samples as there are, where there are fewer."""
    assert merged_batch_size(batch, 1500) == expected


def test_merged_batch_is_a_multiple_of_the_batch() -> None:
    """Ranks that share the batch can share the merged one too: none of its samples is dropped, and the remedy that
    names it is a config that they accept.
    """
    sizes = [(batch, n, merged_batch_size(batch, n)) for batch in range(1, 70) for n in (batch, batch + 5, 1500)]
    assert [(batch, n, size) for batch, n, size in sizes if size % batch or not batch <= size <= n] == []


def test_merged_statistics_leave_the_batch_alone(recipe: Recipe, references: dict[Ingredient, Swap]) -> None:
    """Only companions are added, as many as make up the merged batch; the samples trained on stay."""
    plain, merged = recipe.ingredients(6), references["normalization"](recipe.ingredients(6))
    np.testing.assert_array_equal(plain.sample_ids, merged.sample_ids)
    assert merged.companions is not None
    assert len(merged.companions) == merged_batch_size(8, len(recipe.index.train)) - 8
    assert set(merged.companions) <= set(range(100))
    assert replace(merged, companions=None, sample_ids=plain.sample_ids, epochs=plain.epochs) == replace(
        plain, companions=None
    )


def with_rates(recipe: Recipe, rates: dict[int, float]) -> Stream:
    """The run at rates that change at the given steps."""

    def stream(step: int) -> Ingredients:
        rate = next(rates[start] for start in sorted(rates, reverse=True) if start <= step)
        return recipe.ingredients(step).at_rate(rate)

    return stream


@pytest.mark.parametrize(
    ("rates", "onset", "expected"),
    [
        ({0: 0.1}, 60, None),
        ({0: 0.1, 50: 2.0}, 50, 50),
        ({0: 0.1, 50: 2.0}, 58, 50),
        ({0: 0.1, 50: 2.0}, 49, None),
        ({0: 0.1, 20: 1.0, 50: 2.0}, 60, 50),
        ({0: 0.1, 20: 1.0, 50: 2.0}, 45, 20),
        ({0: 0.1, 600: 1.0}, 700, 600),
        ({0: 0.1, 100: 1.0}, 100 + LOOK_BACK + 10, None),
    ],
)
def test_last_change_point_is_the_last_jump_up_to_the_onset(
    recipe: Recipe, rates: dict[int, float], onset: int, expected: int | None
) -> None:
    """A jump after the onset is no cause, and one long before it neither."""
    assert last_change_point(with_rates(recipe, rates), onset) == expected


def test_last_change_point_is_that_of_the_rates_really_used(recipe: Recipe) -> None:
    """A jump that the config does not know of is found all the same."""
    assert last_change_point(faulty(recipe, "learning_rate_factor", start=30, factor=10.0), 33) == 30


def test_rate_before_holds_the_rate_from_the_jump_on(recipe: Recipe) -> None:
    """The rate of the step before it, and nothing earlier is touched."""
    stream = with_rates(recipe, {0: 0.1, 20: 0.5, 50: 2.0})
    reference = rate_before(stream, 50)
    held = with_swaps(stream, [reference.swap])
    assert [held(step).learning_rate for step in (0, 19, 20, 49, 50, 70)] == [0.1, 0.1, 0.5, 0.5, 0.5, 0.5]
    assert (reference.changed_at, reference.rate, reference.divisor) == (50, 0.5, 4.0)


@pytest.mark.parametrize("divisor", LADDER)
def test_a_rung_of_the_ladder_divides_every_rate(recipe: Recipe, divisor: float) -> None:
    """The schedule keeps its shape."""
    stream = with_rates(recipe, {0: 0.1, 20: 0.5})
    reference = rate_divided(stream, divisor, 30)
    divided = with_swaps(stream, [reference.swap])
    assert [divided(step).learning_rate for step in (0, 25)] == pytest.approx([0.1 / divisor, 0.5 / divisor])
    assert reference.changed_at is None
    assert reference.rate == pytest.approx(0.5 / divisor)


def test_pool_is_what_the_run_trained_on_before_the_onset(recipe: Recipe) -> None:
    """Each sample once; none that only came with the event."""
    pool = sample_pool(recipe, recipe.ingredients, 40)
    seen = np.concatenate([recipe.ingredients(step).sample_ids for step in range(40)])
    np.testing.assert_array_equal(pool, np.unique(seen))
    assert set(recipe.ingredients(40).sample_ids).isdisjoint(pool)


def test_pool_of_a_young_run_is_the_training_set(recipe: Recipe) -> None:
    """Few batches are no choice."""
    for onset in (0, 1, 5):
        assert len(sample_pool(recipe, recipe.ingredients, onset)) == len(recipe.index.train)


def test_clean_batch_is_fixed_and_on_the_reference_path(tiny: Tiny, digits_index: ImageIndex) -> None:
    """The same samples at every asking, from the pool, through the reference normalisation, whatever the run does."""
    recipe = Recipe.build(tiny(data={"normalization": "no_div255"}), digits_index)
    pool = np.arange(200, 400)
    clean = clean_ingredients(recipe, pool, Ranks())
    np.testing.assert_array_equal(clean.sample_ids, clean_ingredients(recipe, pool, Ranks()).sample_ids)
    assert len(set(clean.sample_ids)) == CLEAN_BATCH
    assert set(clean.sample_ids) <= set(pool)
    assert clean.normalize is recipe.reference_normalization
    assert len(clean_ingredients(recipe, np.arange(7), Ranks(0, 2)).sample_ids) == 6

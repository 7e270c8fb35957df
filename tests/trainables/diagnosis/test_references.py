"""References come from the config, the index and what the run did; they undo a fault without knowing it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from trainables.data.index import ImageIndex
from trainables.diagnosis.causes import GROUP_OF_INGREDIENT, GROUPS, Ingredient, group_of
from trainables.diagnosis.references import (
    CLEAN_BATCH,
    LADDER,
    LOOK_BACK,
    MERGED_BATCH,
    Reference,
    choose_references,
    clean_ingredients,
    declared_references,
    first_difference,
    foreign_since,
    last_change_point,
    merged_batch_size,
    rate_before,
    rate_divided,
    sample_pool,
)
from trainables.diagnosis.references.rates import WARM_UP, declared_rate, rate_before_climb, warmed_up_rate
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
    "outlier_samples": ("pixels", {"share": 0.5}),
    "sorted_by_class": ("samples", {}),
    "poisoned_batch": ("samples", {}),
    "weight_decay": ("weight_decay", {"value": 3.0}),
    "moment_decay": ("moments", {"beta2": 0.5}),
    "batch_norm_momentum": ("norm_settings", {"momentum": 1.0}),
    "batch_norm_eps": ("norm_settings", {"eps": 1.0}),
    "frozen_batch_norm": ("norm_settings", {}),
    "corrupt_running_statistics": ("state", {}),
    "optimizer_state_lost": ("state", {}),
    "large_scale": ("state", {}),
    "rank_desync": ("state", {}),
    "half_precision": ("number_format", {"loss_scale": 8.0}),
    "unstable_loss": ("loss", {}),
    "missing_zero_grad": ("step_code", {}),
    "double_step": ("step_code", {}),
    "accumulation_unscaled": ("gradients", {"parts": 4}),
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
def chosen(recipe: Recipe, state: TrainState) -> list[Reference]:
    """Of the tiny config as it is, with a pool of 100 samples."""
    return choose(recipe, state, recipe.ingredients)[0]


def choose(recipe: Recipe, state: TrainState, stream: Stream) -> tuple[list[Reference], dict[Ingredient, Swap]]:
    """The references of six steps, with a pool of 100 samples."""
    return choose_references(recipe, state, stream, state.snapshot(), range(6), np.arange(100))


def drawn(references: list[Reference], ingredient: Ingredient) -> Swap:
    """The reference of one ingredient that is another draw."""
    return next(r.swap for r in references if r.ingredient == ingredient and r.standing == "drawn")


def test_ingredients_and_causes_have_a_group_each() -> None:
    """A cause outside the catalogue has the group of its ingredient."""
    assert set(GROUP_OF_INGREDIENT.values()) == set(GROUPS)
    assert group_of("rank_desync", "state") == "code"
    assert group_of("something", "state") == "numerics"
    causes = [cause for group in GROUPS.values() for cause in group]
    assert len(causes) == len(set(causes))


@pytest.mark.parametrize("name", FAULTS)
def test_the_reference_undoes_the_fault(recipe: Recipe, name: str) -> None:
    """With the one swap on top, a faulty step is the plain one again: its batch, its input and every other value."""
    ingredient, params = FAULTS[name]
    plain, healed = recipe.ingredients(4), declared_references(recipe)[ingredient](faulty(recipe, name, 4, **params)(4))
    one, other = load_batch(plain, Ranks()), load_batch(healed, Ranks())
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(plain.normalize(one.images), healed.normalize(other.images))
    for value in ("optim", "norm", "loss", "amp", "loss_scale", "code", "edits", "gradient_edits"):
        assert getattr(plain, value) == getattr(healed, value)


@pytest.mark.parametrize("name", FAULTS)
def test_only_the_guilty_differs_from_its_reference(recipe: Recipe, name: str) -> None:
    """The others are cleared without a replay; the first foreign step is the fault's first."""
    guilty, params = FAULTS[name]
    stream = faulty(recipe, name, start=3, **params)
    found = {
        ingredient: first_difference(ingredient, stream, swap, range(6), Ranks())
        for ingredient, swap in declared_references(recipe).items()
    }
    assert {ingredient: step for ingredient, step in found.items() if step is not None} == {guilty: 3}


def test_a_plain_run_has_nothing_foreign(recipe: Recipe, chosen: list[Reference]) -> None:
    """Only other draws differ from it, since any two draws do."""
    assert foreign_since(recipe, recipe.ingredients, 40, Ranks()) == {}
    assert {(r.ingredient, r.standing) for r in chosen} == {("samples", "drawn"), ("normalization", "drawn")}


def test_what_is_foreign_is_known_with_its_first_step(recipe: Recipe) -> None:
    """From the values alone, long before any replay."""
    assert foreign_since(recipe, faulty(recipe, "double_step", 17), 40, Ranks()) == {"step_code": 17}
    assert foreign_since(recipe, faulty(recipe, "double_step", 17), 16, Ranks()) == {}


@pytest.mark.parametrize(
    ("changes", "usual", "statistics"),
    [
        ({}, set(), True),
        ({"model": {"norm": "gn"}}, set(), False),
        ({"model": {"norm": "ghost_bn"}}, set(), True),
        ({"model": {"bn_eps": 0.1}}, {"norm_settings"}, True),
        ({"precision": {"amp": "bf16"}}, {"number_format"}, True),
        ({"optim": {"weight_decay": 0.5}}, {"weight_decay"}, True),
        ({"optim": {"kind": "adamw", "betas": (0.9, 0.1)}}, {"moments"}, True),
        ({"optim": {"momentum": 0.99}}, {"moments"}, True),
    ],
)
def test_practice_is_the_reference_of_what_the_config_declares_otherwise(
    small: MakeSmall, tiny: Tiny, changes: dict[str, Any], usual: set[str], *, statistics: bool
) -> None:
    """No statistics are swapped under group norm, no number format in a float32 run."""
    trial = small(tiny(**changes)).trial
    references, equal = choose(trial.recipe, trial.state, trial.stream)
    assert {r.ingredient for r in references if r.standing == "usual"} == usual
    assert ("normalization" in {r.ingredient for r in references}) is statistics
    assert usual.isdisjoint(equal)


def test_a_declared_value_is_preferred_to_practice(small: MakeSmall, tiny: Tiny) -> None:
    """Where the run has neither, the config's is the reference."""
    fault = {"use": "trainables.faults:weight_decay", "params": {"value": 9.0}}
    trial = small(tiny(optim={"weight_decay": 0.5}, faults=[fault])).trial
    references, _ = choose(trial.recipe, trial.state, trial.stream)
    decays = [r for r in references if r.ingredient == "weight_decay"]
    assert [(r.standing, r.swap(trial.stream(0)).optim.weight_decay) for r in decays] == [("declared", 0.5)]


def test_number_format_reference_is_float32(small: MakeSmall, tiny: Tiny) -> None:
    """The swap turns autocast off."""
    trial = small(tiny(precision={"amp": "bf16"})).trial
    references, _ = choose(trial.recipe, trial.state, trial.stream)
    swap = next(r.swap for r in references if r.ingredient == "number_format")
    assert trial.stream(0).amp == "bf16"
    assert swap(trial.stream(0)).amp == "fp32"


def test_huge_gammas_of_a_snapshot_have_a_reference(small: MakeSmall, tiny: Tiny) -> None:
    """They are scaled to a mean size of 1 at the snapshot's step, and at no other."""
    trial = small(tiny()).trial
    scale = trial.state.model.get_parameter("1.weight").data
    scale.mul_(9.0)
    references, _ = choose(trial.recipe, trial.state, trial.stream)
    swap = next(r.swap for r in references if r.ingredient == "scales")
    for edit in swap(trial.stream(0)).edits:
        edit(trial.state)
    assert torch.equal(scale, torch.ones_like(scale))
    assert swap(trial.stream(1)).edits == ()


def test_other_samples_come_from_the_pool(recipe: Recipe, chosen: list[Reference]) -> None:
    """Samples of the pool, none twice in a batch, others at each step, the same at each asking."""
    swap = drawn(chosen, "samples")
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


def test_merged_statistics_leave_the_batch_alone(recipe: Recipe, chosen: list[Reference]) -> None:
    """Only companions are added, as many as make up the merged batch; the samples trained on stay."""
    plain, merged = recipe.ingredients(6), drawn(chosen, "normalization")(recipe.ingredients(6))
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


def test_the_configs_rate_is_a_reference_where_the_run_has_another(recipe: Recipe) -> None:
    """From its first other step on; None where they are the same."""
    stream = faulty(recipe, "learning_rate_factor", 12, factor=3.0)
    found = declared_rate(recipe, stream, 20)
    assert found is not None
    assert (found.changed_at, found.kind) == (12, "declared")
    assert found.divisor == pytest.approx(3.0)
    assert found.swap(stream(15)).learning_rate == recipe.rate_at(15)
    assert declared_rate(recipe, stream, 11) is None


def test_a_rate_that_climbs_again_is_held_at_its_lowest(recipe: Recipe) -> None:
    """As a cosine does past its t_max; a warm-up, which climbs without having fallen, is none."""
    falling = with_rates(recipe, {k: 0.1 * (1 + math.cos(math.pi * k / 20)) + 0.01 for k in range(60)})
    found = rate_before_climb(falling, 32)
    assert found is not None
    assert found.kind == "climb"
    assert found.rate == pytest.approx(0.01)
    assert found.changed_at == 21
    rising = with_rates(recipe, {k: 0.01 * (k + 1) for k in range(60)})
    assert rate_before_climb(rising, 32) is None


def test_a_warm_up_is_tried_early_only(recipe: Recipe) -> None:
    """It ends at the run's own rate; a run that has one, or fell ill later, has no such reference."""
    flat = with_rates(recipe, {0: 0.4})
    found = warmed_up_rate(flat, 10)
    assert found is not None
    rates = [found.swap(flat(step)).learning_rate for step in (0, WARM_UP // 2 - 1, WARM_UP, WARM_UP + 9)]
    assert rates == pytest.approx([0.4 / WARM_UP, 0.2, 0.4, 0.4])
    assert warmed_up_rate(flat, WARM_UP + 1) is None
    assert warmed_up_rate(with_rates(recipe, {k: 0.01 * (k + 1) for k in range(60)}), 10) is None
    up_and_down = {k: 0.01 * (min(k, 10) + 1) * max(0.0, 1 - k / 40) for k in range(60)}
    assert warmed_up_rate(with_rates(recipe, up_and_down), 10) is None

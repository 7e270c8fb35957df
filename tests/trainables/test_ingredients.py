"""Swaps act in their span and nowhere else, and a batch is the ranks' shares put together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainables.ingredients import Ingredients, Swap, load_batch, with_swaps
from trainables.ranks import Ranks
from trainables.recipe import Recipe


def rate_times(factor: float, start: int = 0, stop: int | None = None) -> Swap:
    """Multiply the rate over a span of steps."""
    return Swap(f"x{factor:g}", lambda i: i.at_rate(i.learning_rate * factor), start, stop)


def test_without_swaps_the_stream_is_the_very_stream(recipe: Recipe) -> None:
    """The seam costs nothing where nothing is swapped: not even a wrapper."""
    stream = recipe.ingredients
    assert with_swaps(stream, ()) is stream
    assert with_swaps(stream, []) is stream


def test_a_swap_acts_in_its_span_only(recipe: Recipe) -> None:
    """From `start` on and before `stop`; outside it the ingredients are the very object that came in."""
    swap = rate_times(10, start=3, stop=6)
    stream = with_swaps(recipe.ingredients, [swap])
    plain = [recipe.ingredients(step).learning_rate for step in range(9)]
    assert [stream(step).learning_rate / plain[step] for step in range(9)] == [1, 1, 1, 10, 10, 10, 1, 1, 1]
    outside = recipe.ingredients(6)
    assert swap(outside) is outside


def test_a_swap_without_stop_stays(recipe: Recipe) -> None:
    """`stop` None: to the end of the run."""
    stream = with_swaps(recipe.ingredients, [rate_times(2, start=1)])
    assert stream(10**6).learning_rate == 2 * recipe.ingredients(10**6).learning_rate


def test_swaps_are_applied_in_order(recipe: Recipe) -> None:
    """The last one has the last word, as a reference value over a fault."""
    fixed = Swap("fixed", lambda i: i.at_rate(0.5))
    assert with_swaps(recipe.ingredients, [rate_times(10), fixed])(0).learning_rate == 0.5
    assert with_swaps(recipe.ingredients, [fixed, rate_times(10)])(0).learning_rate == 5.0


def test_a_swap_leaves_the_stream_as_it_is(recipe: Recipe) -> None:
    """Asking a swapped stream changes nothing in the plain one."""
    before = recipe.ingredients(4)
    with_swaps(recipe.ingredients, [rate_times(10)])(4)
    after = recipe.ingredients(4)
    assert after.learning_rate == before.learning_rate
    np.testing.assert_array_equal(after.sample_ids, before.sample_ids)


def test_nothing_is_decoded_before_it_is_asked_for(recipe: Recipe) -> None:
    """Ingredients and swaps of them name no pixels: a schedule is read far ahead at no cost."""

    def refuse(_ids: np.ndarray, _epochs: np.ndarray) -> torch.Tensor:
        raise AssertionError("decoded")

    stream = with_swaps(recipe.ingredients, [Swap("no pixels", lambda i: replace(i, decode=refuse))])
    assert len(stream(1000).sample_ids) == 8
    with pytest.raises(AssertionError, match="decoded"):
        load_batch(stream(0), Ranks())


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_batches_make_up_the_whole_batch(recipe: Recipe, world_size: int) -> None:
    """The shares in the order of the ranks are the batch of one process: images, labels and companions."""
    ingredients = replace(recipe.ingredients(5), companions=np.arange(100, 112))
    whole = load_batch(ingredients, Ranks())
    shares = [load_batch(ingredients, Ranks(rank, world_size)) for rank in range(world_size)]
    assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
    assert torch.equal(torch.cat([share.labels for share in shares]), whole.labels)
    companions = [share.companions for share in shares if share.companions is not None]
    assert whole.companions is not None
    assert torch.equal(torch.cat(companions), whole.companions)


def test_a_batch_is_bytes_and_labels_of_the_index(recipe: Recipe) -> None:
    """uint8 pixels of the samples named, int64 labels from the index, no companions unless asked for."""
    ingredients: Ingredients = recipe.ingredients(2)
    batch = load_batch(ingredients, Ranks())
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (8, 16, 16, 3))
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == recipe.index.train.labels[ingredients.sample_ids].tolist()
    assert batch.companions is None
    assert torch.equal(batch.images, recipe.train.fetch(ingredients.sample_ids, ingredients.epochs))


def test_labels_of_another_type_become_int64(recipe: Recipe) -> None:
    """A fault's or a user's labels may be int32, or a view with strides: cross-entropy gets int64."""
    labels = np.arange(16, dtype=np.int32)[::2]
    batch = load_batch(replace(recipe.ingredients(0), label=lambda ids, epochs: labels), Ranks())
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == labels.tolist()


def test_a_full_batch_has_no_companions_to_draw(recipe: Recipe) -> None:
    """An empty set of companions decodes to an empty batch, not to an error."""
    batch = load_batch(replace(recipe.ingredients(0), companions=np.empty(0, np.int64)), Ranks())
    assert batch.companions is not None
    assert len(batch.companions) == 0

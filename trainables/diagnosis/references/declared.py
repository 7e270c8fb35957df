"""References that the config, the data index and the plain step declare: one for each ingredient of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from trainables.diagnosis.causes import Ingredient
from trainables.ingredients import Ingredients, Swap
from trainables.recipe import Recipe

Take = Callable[[Ingredients, Ingredients], Ingredients]
"""(the run's step, the same step of the recipe) -> the run's step with one ingredient of the recipe."""

NAMED: Mapping[Ingredient, tuple[str, Take]] = {
    "state": ("the state left alone between steps", lambda i, plain: replace(i, edits=plain.edits)),
    "gradients": (
        "the gradients left alone after the backward pass",
        lambda i, plain: replace(i, gradient_edits=plain.gradient_edits),
    ),
    "step_code": ("the reference step", lambda i, plain: replace(i, code=plain.code)),
    "loss": ("the loss of the config", lambda i, plain: replace(i, loss=plain.loss)),
    "weight_decay": (
        "weight decay of the config",
        lambda i, plain: replace(i, optim=replace(i.optim, weight_decay=plain.optim.weight_decay)),
    ),
    "moments": (
        "momentum, betas and eps of the config",
        lambda i, plain: replace(
            i, optim=replace(i.optim, momentum=plain.optim.momentum, betas=plain.optim.betas, eps=plain.optim.eps)
        ),
    ),
    "norm_settings": ("batch norm settings of the config", lambda i, plain: replace(i, norm=plain.norm)),
    "number_format": (
        "number format of the config",
        lambda i, plain: replace(i, amp=plain.amp, loss_scale=plain.loss_scale),
    ),
    "labels": ("labels of the index", lambda i, plain: replace(i, label=plain.label)),
    "samples": (
        "samples that the sampler drew",
        lambda i, plain: replace(i, sample_ids=plain.sample_ids, epochs=plain.epochs),
    ),
}


def declared_references(recipe: Recipe) -> dict[Ingredient, Swap]:
    """What each ingredient would be if nothing interfered, cheapest to compare first, pixels last.

    The reference of pixels is a normalisation that is practice, even where the config declares another one.
    """
    references = {name: Swap(text, _from_recipe(recipe, take)) for name, (text, take) in NAMED.items()}
    references["pixels"] = Swap(
        f"reference decode and {recipe.reference_normalization.name} normalisation",
        lambda i: replace(i, decode=recipe.source(i.step).fetch, normalize=recipe.reference_normalization),
    )
    return references


def _from_recipe(recipe: Recipe, take: Take) -> Callable[[Ingredients], Ingredients]:
    return lambda ingredients: take(ingredients, recipe.ingredients(ingredients.step))

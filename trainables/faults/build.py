"""From a config's faults to swaps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from trainables.config import FaultConfig
from trainables.errors import ConfigError, complaint
from trainables.ingredients import Change, Edit, EvaluationChange, Swap, load_batch, unchanged
from trainables.ranks import Ranks
from trainables.recipe import Recipe


@dataclass(frozen=True)
class Fault:
    """What a fault does, where a plain `Ingredients -> Ingredients` doesn't say it all."""

    training: Change = unchanged
    """To the steps from its first to its last."""
    evaluation: EvaluationChange = unchanged
    """To the evaluations after them."""
    once: bool = False
    """True: it acts on its first step only, unless the config says until when."""
    live: bool = False
    """True: it does not come back in a replay, as a bit that flipped in the hardware."""


def edit_state(edit: Edit, *, live: bool = False) -> Fault:
    """A fault that changes the state once, before the step that it starts at."""
    return Fault(lambda i: i.edited(edit), once=True, live=live)


FaultFactory = Callable[..., Change | Fault]
"""(recipe, **params) -> what the fault does."""


def build_faults(configs: Sequence[FaultConfig], recipe: Recipe) -> tuple[Swap, ...]:
    """The swaps that `configs` ask for. Raises ConfigError where an import path or a parameter is wrong."""
    return tuple(build_fault(config, recipe, f"faults.{i}") for i, config in enumerate(configs))


def build_fault(config: FaultConfig, recipe: Recipe, key: str) -> Swap:
    """One swap; `key` is where its config stands."""
    factory = load_fault(config.use, key=f"{key}.use")
    try:
        made = factory(recipe, **config.params)
        fault = made if isinstance(made, Fault) else Fault(made)
        try_change(fault, recipe, config.start_step)
    except TypeError as error:
        allowed = f"the parameters of {config.use} ({error})"
        raise ConfigError(complaint(f"{key}.params", config.params, allowed, f"correct {key}.params")) from None
    stop = config.start_step + 1 if fault.once and config.stop_step is None else config.stop_step
    return Swap(config.use, fault.training, config.start_step, stop, fault.evaluation, live=fault.live)


def try_change(fault: Fault, recipe: Recipe, step: int) -> None:
    """Apply a fault to one sample of `step`: what it can't be applied to raises TypeError here, not in a step."""
    ingredients = fault.training(recipe.ingredients(step))
    one = replace(ingredients, sample_ids=ingredients.sample_ids[:1], epochs=ingredients.epochs[:1])
    one.normalize(load_batch(one, Ranks()).images) * one.learning_rate
    fault.evaluation(recipe.evaluation(step + 1))


def load_fault(use: str, *, key: str = "faults.use") -> FaultFactory:
    """Import `module:name`. Raises ConfigError where there is none."""
    module_name, _, name = use.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        built_in = ", ".join(f"trainables.faults:{f.__name__}" for f in importlib.import_module(__package__).BUILT_IN)
        allowed = f"an importable module:name, for example {built_in}"
        raise ConfigError(complaint(key, use, allowed, f"correct {key}")) from None
    if not callable(factory):
        raise ConfigError(complaint(key, use, "a function of (recipe, **params)", f"correct {key}"))
    return cast("FaultFactory", factory)

"""Changes of a run that goes on: plain data that a checkpoint keeps, and the swap that each of them stands for.

After a rollback the run is a function of (config, seed, step, interventions). So an intervention holds nothing but JSON
types, and its swap is built anew from (intervention, recipe) wherever the run goes on: the same steps, the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from trainables.data.sampler import EpochSampler
from trainables.ingredients import Change, EvaluationChange, Ingredients, Swap, unchanged
from trainables.loop import train_step
from trainables.norms import NormSettings
from trainables.recipe import Recipe
from trainables.rng import generator


@dataclass(frozen=True)
class Intervention:
    """A change of the steps in [start, stop), by the name of its kind.

    >>> Intervention("cap_rate", {"rate": 0.1}, start=500).to_dict()
    {'kind': 'cap_rate', 'params': {'rate': 0.1}, 'start': 500, 'stop': None}
    """

    kind: str
    """A key of KINDS."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the kind, JSON types only."""
    start: int = 0
    stop: int | None = None
    """First step that it no longer changes; None: it stays."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, through JSON too."""
        return cls(**values)

    def describe(self) -> str:
        """`cap_rate(rate=0.1) from step 500 on`."""
        params = ", ".join(f"{key}={_shown(value)}" for key, value in self.params.items())
        span = f"from step {self.start} on" if self.stop is None else f"in steps {self.start} to {self.stop - 1}"
        return f"{self.kind}({params}) {span}"


@dataclass(frozen=True)
class Effect:
    """What an intervention does to a step, and to an evaluation."""

    change: Change = unchanged
    evaluation: EvaluationChange = unchanged


Kind = Callable[..., Effect]
"""(recipe, start, **params) -> effect; `start` is the intervention's first step."""


def build_swap(intervention: Intervention, recipe: Recipe) -> Swap:
    """The swap that `intervention` stands for; KeyError for a kind that there is not."""
    effect = KINDS[intervention.kind](recipe, intervention.start, **intervention.params)
    name, start, stop = intervention.describe(), intervention.start, intervention.stop
    return Swap(name, effect.change, start, stop, effect.evaluation)


def hold_rate(_recipe: Recipe, _start: int, *, rate: float) -> Effect:
    """The learning rate is `rate`, whatever the schedule has."""
    return Effect(lambda i: i.at_rate(rate))


def cap_rate(_recipe: Recipe, _start: int, *, rate: float) -> Effect:
    """The learning rate is never above `rate`; below it the schedule goes on, so that a decay still comes."""
    return Effect(lambda i: i.at_rate(min(rate, i.learning_rate)))


def config_rate(recipe: Recipe, _start: int) -> Effect:
    """The learning rate is the config's."""
    return Effect(lambda i: i.at_rate(recipe.rate_at(i.step)))


def warm_up(_recipe: Recipe, _start: int, *, steps: int) -> Effect:
    """The run's own rate, ramped up linearly over the first `steps` of the run."""
    return Effect(lambda i: i.at_rate(i.learning_rate * min(1.0, (i.step + 1) / steps)))


def scale_rate(_recipe: Recipe, _start: int, *, factor: float) -> Effect:
    """The run's own rate times `factor`."""
    return Effect(lambda i: i.at_rate(i.learning_rate * factor))


def optimizer_settings(_recipe: Recipe, _start: int, **settings: Any) -> Effect:
    """Momentum, betas, eps or weight_decay as given; the others as the run has them."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    return Effect(lambda i: replace(i, optim=replace(i.optim, **values)))


def skip_samples(recipe: Recipe, _start: int, *, ids: list[int]) -> Effect:
    """Others of the training set, drawn anew at each step, stand in for these samples wherever they come."""
    skipped = np.asarray(sorted(ids), dtype=np.int64)
    sound = np.setdiff1d(np.arange(len(recipe.index.train), dtype=np.int64), skipped)

    def change(ingredients: Ingredients) -> Ingredients:
        bad = np.isin(ingredients.sample_ids, skipped)
        if not bad.any():
            return ingredients
        rng = generator(recipe.config.seed, "stand_in", ingredients.step)
        kept = ingredients.sample_ids.copy()
        kept[bad] = rng.choice(sound, size=int(bad.sum()), replace=int(bad.sum()) > len(sound))
        return replace(ingredients, sample_ids=kept)

    return Effect(change)


def config_order(recipe: Recipe, _start: int) -> Effect:
    """The samples of each step are those that (seed, epoch) gives."""
    sampler = recipe.sampler
    return Effect(lambda i: replace(i, sample_ids=sampler.sample_ids(i.step), epochs=sampler.epochs(i.step)))


def larger_batch(recipe: Recipe, _start: int, *, size: int) -> Effect:
    """The batch of `global_batch_size` raised to `size`; the rate follows the config's rule."""
    config = recipe.config
    sampler = EpochSampler(len(recipe.index.train), size, config.seed)
    scale = size / config.global_batch_size if config.optim.lr_batch_size is not None else 1.0

    def change(ingredients: Ingredients) -> Ingredients:
        ids, epochs = sampler.sample_ids(ingredients.step), sampler.epochs(ingredients.step)
        return replace(ingredients.at_rate(ingredients.learning_rate * scale), sample_ids=ids, epochs=epochs)

    return Effect(change)


def index_labels(recipe: Recipe, _start: int) -> Effect:
    """The labels are the data index's."""
    return Effect(lambda i: replace(i, label=recipe.true_labels))


def reference_pixels(recipe: Recipe, _start: int) -> Effect:
    """Decoded and normalised by the reference path; evaluations see the same normalisation."""
    normalize = recipe.reference_normalization
    return Effect(
        lambda i: replace(i, decode=recipe.source(i.step).fetch, normalize=normalize),
        lambda e: replace(e, normalize=normalize),
    )


def float32(_recipe: Recipe, _start: int) -> Effect:
    """Float32 throughout, without a loss scale."""
    return Effect(lambda i: replace(i, amp="fp32", loss_scale=1.0), lambda e: replace(e, amp="fp32"))


def norm_settings(_recipe: Recipe, _start: int, *, momentum: float = 0.1, eps: float = 1e-5) -> Effect:
    """Every batch norm takes its statistics with these settings, and none is frozen."""
    settings = NormSettings(momentum, eps)
    return Effect(lambda i: replace(i, norm=settings), lambda e: replace(e, norm=settings))


def no_edits(_recipe: Recipe, _start: int) -> Effect:
    """Nothing but the step changes the state or the gradients."""
    return Effect(lambda i: replace(i, edits=(), gradient_edits=()))


def reference_step(_recipe: Recipe, _start: int) -> Effect:
    """The plain step: clear, forward, backward, one optimizer step."""
    return Effect(lambda i: replace(i, code=train_step))


def reference_loss(recipe: Recipe, _start: int) -> Effect:
    """The loss of the config."""
    return Effect(lambda i: replace(i, loss=recipe.loss))


KINDS: Mapping[str, Kind] = {
    kind.__name__: kind
    for kind in (
        hold_rate,
        cap_rate,
        config_rate,
        warm_up,
        scale_rate,
        optimizer_settings,
        skip_samples,
        config_order,
        larger_batch,
        index_labels,
        reference_pixels,
        float32,
        norm_settings,
        no_edits,
        reference_step,
        reference_loss,
    )
}
"""Every kind by its name, which checkpoints hold: a name may be added, never given another meaning."""


def _shown(value: object) -> str:
    """At most eight entries of a list."""
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(map(str, value[:8]))} and {len(value) - 8} more]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

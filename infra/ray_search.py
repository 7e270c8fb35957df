"""The space and the search in Tune's own terms: param_space, searcher, scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from infra.ray_schedulers import DiagnosisAware
from infra.space import Axis, Choices

if TYPE_CHECKING:
    from ray.tune.search import Searcher
    from ray.tune.search.basic_variant import BasicVariantGenerator

SearchKind = Literal["grid", "random", "optuna"]
METRIC = "best_val_top1"
"""What Optuna maximises: a trial that fell ill after a good evaluation keeps its good value."""
OPTUNA_CHOICES = "Choices for a categorical distribution should be"
"""Head of Optuna's warning that values like {kind: multi_step} can't be stored; its study lives in memory here."""


def param_space(axes: Mapping[str, Axis], kind: SearchKind) -> dict[str, Any]:
    """Axis -> Tune's grid or domain; each trial's config is then one point, axis -> value."""
    return {name: _domain(axis, kind) for name, axis in axes.items()}


def _domain(axis: Axis, kind: SearchKind) -> Any:
    if isinstance(axis, Choices):
        return tune.grid_search(list(axis.values)) if kind == "grid" else tune.choice(list(axis.values))
    match axis.kind:
        case "uniform":
            return tune.uniform(axis.low, axis.high)
        case "loguniform":
            return tune.loguniform(axis.low, axis.high)
        case "randint":
            return tune.randint(int(axis.low), int(axis.high))


def searcher(kind: SearchKind, seed: int, max_concurrent: int) -> Searcher | BasicVariantGenerator:
    """Tune's searcher, its draws keyed by `seed`; it gives out at most `max_concurrent` trials at a time.

    TuneConfig's own limit is ignored beside a BasicVariantGenerator, so the limit is kept here.
    """
    if kind != "optuna":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=seed, max_concurrent=max_concurrent)
    import optuna
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = OptunaSearch(metric=METRIC, mode="max", sampler=optuna.samplers.TPESampler(seed=seed))
    return ConcurrencyLimiter(study, max_concurrent=max_concurrent)


def asha(grace_steps: int, reduction_factor: int, max_steps: int, diagnosis_timeout_s: float) -> DiagnosisAware:
    """Asynchronous successive halving (Li et al. 2020) on val_top1 over steps, which leaves a diagnosis alone."""
    halving = AsyncHyperBandScheduler(
        # training_iteration starts again after a restore; the step doesn't.
        time_attr="step",
        metric="val_top1",
        mode="max",
        grace_period=grace_steps,
        reduction_factor=reduction_factor,
        # A trial that reaches its last step ends by itself.
        max_t=max_steps + 1,
    )
    return DiagnosisAware(halving, diagnosis_timeout_s)

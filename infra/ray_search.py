"""The space and the search in Tune's own terms: param_space, searcher, scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from infra.space import Axis, Choices
from infra.stopper import DiagnosisWatch

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


class DiagnosisAware(TrialScheduler):
    """A scheduler that ends no trial in phase `diagnosing` before its time-out, and leaves all else to `inner`."""

    def __init__(self, inner: TrialScheduler, timeout_s: float = 900.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner = inner
        self._watch = DiagnosisWatch(timeout_s)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE while the trial diagnoses in time; else what `inner` decides."""
        late = self._watch.is_late(trial.trial_id, result)
        if self._watch.is_diagnosing(trial.trial_id, result) and not late:
            return TrialScheduler.CONTINUE
        return str(self._inner.on_trial_result(tune_controller, trial, result))

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """As `inner`."""
        return bool(self._inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """As `inner`."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """As `inner`."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """As `inner`."""
        self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """As `inner`."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """As `inner`."""
        return self._inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """As `inner`."""
        return str(self._inner.debug_string())

    def save(self, checkpoint_path: str) -> None:
        """As `inner`."""
        self._inner.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """As `inner`."""
        self._inner.restore(checkpoint_path)

"""Space and search in Tune's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from infra.ray_schedulers import DiagnosisAware, KeptFirst
from infra.ray_search import asha, param_space, searcher
from infra.ray_state import fetch
from infra.space import Choices, Range


class Stop(TrialScheduler):
    """A scheduler that would end every trial at every row, and remembers which rows it saw."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[dict[str, Any]] = []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP."""
        del tune_controller, trial
        self.rows.append(result)
        return str(TrialScheduler.STOP)


class SomeTrial:
    """What a scheduler needs of a Tune trial."""

    trial_id = "a"


def test_grid_keeps_whole_mappings() -> None:
    """A section's values reach the trial as they are."""
    values = ({"kind": "multi_step", "milestones": [2]}, {"kind": "cosine"})
    assert param_space({"schedule": Choices(values)}, "grid") == {"schedule": {"grid_search": list(values)}}


def test_ranges_have_tunes_bounds() -> None:
    """Uniform and loguniform hold both ends, randint leaves the upper one out."""
    space = param_space({"optim.lr": Range("loguniform", 1e-3, 1.0), "seed": Range("randint", 0, 5)}, "random")
    assert (space["optim.lr"].lower, space["optim.lr"].upper) == (1e-3, 1.0)
    assert {space["seed"].sample() for _ in range(200)} == {0, 1, 2, 3, 4}


def test_random_draws_are_keyed_by_the_seed() -> None:
    """The same seed draws the same points, another seed others."""

    def draws(seed: int) -> list[float]:
        generator = searcher("random", seed, max_concurrent=8)
        assert isinstance(generator, BasicVariantGenerator)
        space = param_space({"optim.lr": Range("uniform", 0.0, 1.0)}, "random")
        generator.add_configurations(tune.Experiment("e", "stub", config=space, num_samples=4, storage_path="/"))
        return [generator.next_trial().config["optim.lr"] for _ in range(4)]

    tune.register_trainable("stub", lambda config: None)
    assert draws(0) == draws(0)
    assert draws(0) != draws(1)


@pytest.mark.parametrize(("seconds", "decision"), [(100.0, "CONTINUE"), (159.0, "CONTINUE"), (161.0, "STOP")])
def test_scheduler_waits_for_a_diagnosis(seconds: float, decision: str) -> None:
    """While a trial diagnoses the scheduler neither ends it nor counts its rows; after the time-out it may."""
    inner = Stop()
    scheduler = DiagnosisAware(inner, timeout_s=60)
    trial = SomeTrial()
    assert scheduler.on_trial_result(None, trial, {"phase": "diagnosing", "time_total_s": 100.0}) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, {"phase": "diagnosing", "time_total_s": seconds}) == decision
    assert len(inner.rows) == (decision == "STOP")


def test_trials_are_on_disk_before_they_may_start(tmp_path: Path) -> None:
    """Tune's state is written for each new trial before one is chosen, and for each that ends, with copies."""
    order: list[str] = []
    (tmp_path / "experiment_state-1.json").write_text("{}")

    class Controller:
        experiment_path = str(tmp_path)
        trials: ClassVar[list[Trial]] = []

        def get_trials(self) -> list[Trial]:
            return self.trials

        def checkpoint(self, *, force: bool, wait: bool) -> None:
            order.append(f"{len(self.trials)} kept" if force and wait else "later")

    class First(Stop):
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            order.append(f"chosen of {len(tune_controller.get_trials())}")

    scheduler, controller = KeptFirst(First(), str(tmp_path / "elsewhere")), Controller()
    one, other = (Trial("run_trial", stub=True) for _ in range(2))
    for new in ([one], [], [other]):
        controller.trials.extend(new)
        scheduler.choose_trial_to_run(controller)
    assert order == ["1 kept", "chosen of 1", "chosen of 1", "2 kept", "chosen of 2"]
    other.set_status(Trial.TERMINATED)
    scheduler.choose_trial_to_run(controller)
    assert order[5:] == ["2 kept", "chosen of 2"]
    assert (tmp_path / "experiment_state-1.json.kept").read_text() == "{}"
    assert fetch(str(tmp_path / "elsewhere"), tmp_path / "fetched")
    assert [file.name for file in (tmp_path / "fetched").iterdir()] == ["experiment_state-1.json"]


def test_scheduler_decides_on_training_rows() -> None:
    """Any other row is the inner scheduler's."""
    assert DiagnosisAware(Stop()).on_trial_result(None, SomeTrial(), {"phase": "training"}) == "STOP"


def test_asha_ends_the_worse_trial_at_a_rung() -> None:
    """ASHA compares val_top1 at equal steps: the worse of two is ended, and a trial's last step ends nobody."""
    scheduler = asha(grace_steps=10, reduction_factor=2, max_steps=40, diagnosis_timeout_s=60)
    good, bad = SomeTrial(), SomeTrial()
    bad.trial_id = "b"
    for trial in (good, bad):
        scheduler.on_trial_add(None, trial)

    def report(trial: SomeTrial, step: int, top1: float) -> str:
        return scheduler.on_trial_result(None, trial, {"phase": "training", "step": step, "val_top1": top1})

    assert report(good, 10, 0.9) == "CONTINUE"
    assert report(bad, 9, 0.1) == "CONTINUE"
    assert report(bad, 10, 0.1) == "STOP"
    assert report(good, 40, 0.9) == "CONTINUE"

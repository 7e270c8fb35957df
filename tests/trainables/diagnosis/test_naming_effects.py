"""A fault of the code, of the state or of a setting is named by what one step of it does, from a snapshot before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from trainables.baseline import Baseline
from trainables.detectors import Symptom
from trainables.diagnosis.case import Case
from trainables.diagnosis.culprits import Culprits
from trainables.diagnosis.naming import NamedCause, name_cause
from trainables.diagnosis.naming.edits import name_change
from trainables.diagnosis.references import clean_ingredients, foreign_since
from trainables.diagnosis.references.choose import Reference
from trainables.diagnosis.references.declared import declared_references
from trainables.diagnosis.replay import Replayer, Severity
from trainables.diagnosis.swap_table import Thresholds
from trainables.loop import run_steps

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall

START = 4


def case_of(small: MakeSmall, tiny: Tiny, name: str, params: dict[str, Any], optim: dict[str, Any]) -> Case:
    """A case of a run that is faulty from START on, with the snapshot two steps before."""
    fault = {"use": f"trainables.faults:{name}", "start_step": START, "params": params}
    trial = small(tiny(optim=optim, faults=[fault])).trial
    list(run_steps(trial.state, trial.stream, 0, START - 2, loader_threads=0))
    symptom = Symptom("spike", START + 3, START + 1, 9.0, "", Baseline(level=2.4, noise=0.2, chance=2.3))
    clean = clean_ingredients(trial.recipe, np.arange(200), trial.state.ranks)
    return Case(
        trial.config,
        trial.recipe,
        trial.state,
        trial.stream,
        symptom,
        Replayer(trial.state, trial.stream, clean, loader_threads=0),
        Severity(symptom, trial.config.detector, 6.0),
        Thresholds(6.0, 3.0),
        lambda label: None,
        snapshot=trial.state.snapshot(),
        stop=START + 4,
    )


def named(case: Case) -> NamedCause:
    """The cause behind the one foreign ingredient."""
    ((ingredient, since),) = foreign_since(case.recipe, case.stream, START + 1, case.state.ranks).items()
    swap = declared_references(case.recipe)[ingredient]
    return name_cause(case, Reference(ingredient, swap, "declared", since), None)


SGD = {"lr": 0.02}
ADAM = {"kind": "adamw", "lr": 0.001}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("missing_zero_grad", {}, SGD, "missing_zero_grad", "1.00 times the one before"),
    ("double_step", {}, SGD, "double_step", "update"),
    ("double_step", {}, ADAM, "double_step", "update"),
    ("accumulation_unscaled", {"parts": 4}, SGD, "accumulation_unscaled", "4 times"),
    ("accumulation_unscaled", {"parts": 8}, ADAM, "accumulation_unscaled", "8 times"),
    ("optimizer_state_lost", {}, SGD, "optimizer_state_lost", "became 0"),
    ("optimizer_state_lost", {}, ADAM, "optimizer_state_lost", "became 0"),
    ("corrupt_running_statistics", {"factor": 50.0}, SGD, "bn_stats_corrupt", "times 50"),
    ("low_precision_statistics", {}, SGD, "bn_low_precision", "bfloat16"),
    ("large_scale", {"factor": 6.0}, SGD, "bn_gamma_init", "times 6"),
    ("frozen_batch_norm", {}, SGD, "bn_frozen", "running statistics"),
    ("batch_norm_eps", {"eps": 0.5}, SGD, "norm_eps", "0.5 instead of 1e-05"),
    ("batch_norm_momentum", {"momentum": 0.9}, SGD, "bn_momentum", "0.9 instead of 0.1"),
    ("weight_decay", {"value": 0.7}, SGD, "weight_decay", "0.7"),
    ("moment_decay", {"beta2": 0.3}, ADAM, "adaptive_state_lag", "0.3"),
    ("unstable_loss", {}, SGD, "loss_numerics", "loss"),
]


@pytest.mark.parametrize(
    ("fault", "params", "optim", "cause", "number"), CASES, ids=[f"{c[0]}-{c[2].get('kind', 'sgd')}" for c in CASES]
)
def test_the_fault_is_read_off_one_step(
    small: MakeSmall, tiny: Tiny, fault: str, params: dict[str, Any], optim: dict[str, Any], cause: str, number: str
) -> None:
    """Name, a number of its evidence, and the step since when; whether or not it made an event."""
    found = named(case_of(small, tiny, fault, params, optim))
    assert found.name == cause
    assert number in found.evidence
    assert found.culprits.step == START


def test_one_flipped_value_is_a_silent_corruption_of_its_layer(small: MakeSmall, tiny: Tiny) -> None:
    """An edit that changes one value of one layer; the layer and how many values are in the evidence."""
    state = small(tiny()).trial.state
    before = state.snapshot().tensors
    name = next(name for name in before if name.startswith("parameter/") and before[name].dim() == 4)
    changed = before[name].clone()
    changed[0, 0, 0, 0] *= -1000.0
    found = name_change(state, before, {name: changed}, 9)
    assert found.name == "silent_corruption"
    assert found.culprits == Culprits(layer=name.removeprefix("parameter/"), step=9)
    assert f"1 of {changed.numel()} values" in found.evidence


def test_watching_a_step_leaves_the_snapshot_alone(small: MakeSmall, tiny: Tiny) -> None:
    """Naming runs the guilty step; the snapshot that every later replay starts from has the same bits."""
    case = case_of(small, tiny, "double_step", {}, SGD)
    before = {name: tensor.clone() for name, tensor in case.snapshot.tensors.items()}
    named(case)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.snapshot.tensors.items())

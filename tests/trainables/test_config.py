"""A config is checked where it is built, and each fault of it is one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from trainables.config import TrialConfig
from trainables.errors import ConfigError
from trainables.section import Section

FAULTS: list[tuple[dict[str, Any], str, str, str, str]] = [
    ({"max_stepz": 5}, "max_stepz", "5", "max_steps", "write 'max_steps'"),
    ({"optim": {"learning_rate": 0.1}}, "optim.learning_rate", "0.1", "momentum", "remedy: "),
    ({"model": {"nrom": "gn"}}, "model.nrom", "'gn'", "ghost_batch_size", "write 'norm'"),
    ({"zzz": None}, "zzz", "None", "global_batch_size", "remove it"),
    ({"max_steps": 0}, "max_steps", "0", "greater than or equal to 1", "--set max_steps="),
    ({"max_steps": "many"}, "max_steps", "'many'", "epochs as 90ep", "correct max_steps"),
    ({"max_steps": 1.5}, "max_steps", "1.5", "valid integer", "correct max_steps"),
    ({"seed": -1}, "seed", "-1", "greater than or equal to 0", "correct seed"),
    ({"seed": 2**63}, "seed", str(2**63), "less than", "correct seed"),
    ({"optim": {"lr": 0}}, "optim.lr", "0", "greater than 0", "correct optim.lr"),
    ({"optim": {"lr": math.nan}}, "optim.lr", "nan", "finite number", "correct optim.lr"),
    ({"optim": {"lr": math.inf}}, "optim.lr", "inf", "finite number", "correct optim.lr"),
    ({"optim": {"momentum": 1.0}}, "optim.momentum", "1.0", "less than 1", "correct optim.momentum"),
    ({"optim": {"momentum": math.nan}}, "optim.momentum", "nan", "", "correct optim.momentum"),
    ({"optim": None}, "optim", "None", "valid dictionary", "correct optim"),
    ({"optim": 0.1}, "optim", "0.1", "valid dictionary", "correct optim"),
    ({"model": {"norm": "layer"}}, "model.norm", "'layer'", "'frozen_bn'", "correct model.norm"),
    ({"model": {"name": "resnet34"}}, "model.name", "'resnet34'", "'resnet50'", "correct model.name"),
    ({"data": {"image_size": 4}}, "data.image_size", "4", "greater than or equal to 8", "correct data.image_size"),
    ({"data": {"normalization": "rgb"}}, "data.normalization", "'rgb'", "'per_channel'", "correct data.normalization"),
    ({"schedule": {"kind": "linear"}}, "schedule.kind", "'linear'", "'one_cycle'", "correct schedule.kind"),
    ({"schedule": {"milestones": [0]}}, "schedule.milestones.0", "0", "or equal to 1", "correct schedule.milestones"),
    ({"schedule": {"milestones": [9, 4]}}, "schedule", "9", "ascending order", "correct it"),
    ({"schedule": {"milestones": [4, 4]}}, "schedule", "4", "each step once", "correct it"),
    ({"schedule": {"warmup_steps": 100}}, "schedule.warmup_steps", "100", "below max_steps (100)", "shorten"),
    ({"precision": {"amp": "fp8"}}, "precision.amp", "'fp8'", "'bf16'", "correct precision.amp"),
    ({"device": "tpu"}, "device", "'tpu'", "'cuda'", "correct device"),
    ({"faults": [{"use": "no_colon"}]}, "faults.0.use", "'no_colon'", "pattern", "correct faults.0.use"),
    ({"faults": [{"usee": "a:b", "use": "a:b"}]}, "faults.0.usee", "'a:b'", "start_step", "write 'use'"),
    ({"faults": [{"start_step": 3}]}, "faults.0.use", "", "required", "correct faults.0.use"),
]


@pytest.mark.parametrize(("values", "key", "shown", "allowed", "remedy"), FAULTS, ids=lambda v: str(v)[:40])
def test_a_fault_is_one_line(values: dict[str, Any], key: str, shown: str, allowed: str, remedy: str) -> None:
    """Key, value, what is allowed and the remedy, in one line, for every kind of mistake."""
    with pytest.raises(ConfigError) as caught:
        TrialConfig.parse(values)
    message = str(caught.value)
    assert message.splitlines() == [message]
    head, _, rest = message.partition(" is not allowed; allowed: ")
    named, _, value = head.partition(": ")
    assert named == key
    assert shown in value
    assert allowed in rest.partition("; remedy: ")[0]
    assert remedy in "; remedy: " + rest.partition("; remedy: ")[2]


def test_a_fault_hides_no_traceback_of_pydantic() -> None:
    """What pydantic raised is not chained on: a user sees one error."""
    with pytest.raises(ConfigError) as caught:
        TrialConfig.parse({"max_steps": 0})
    assert caught.value.__suppress_context__


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"detector": {"history": 8, "min_history": 16}}, "min_history"),
    ({"detector": {"erratic_window": 8, "min_history": 20}}, "erratic_window"),
    ({"diagnosis": {"present_score": 3.0, "absent_score": 6.0}}, "absent_score"),
    ({"faults": [{"use": "a:b", "start_step": 5, "stop_step": 5}]}, "stop_step"),
    ({"data": {"start_size": 64, "image_size": 32}}, "data.start_size"),
    ({"data": {"grow_steps": [9, 3]}}, "data.grow_steps"),
    ({"data": {"start_size": 16, "image_size": 32, "grow_steps": [3, 3]}}, "data.grow_steps"),
    ({"data": {"grow_steps": [3, 9]}}, "data.grow_steps"),
    ({"data": {"start_size": 16, "image_size": 32, "grow_steps": [3, 101]}}, "data.grow_steps"),
    ({"optim": {"nesterov": True, "momentum": 0.0}}, "optim.momentum"),
    ({"model": {"name": "resnet18", "norm": "norm_free"}}, "model.name"),
    ({"model": {"width": 0.5, "norm": "norm_free"}}, "model.width"),
    ({"schedule": {"kind": "cosine", "milestones": [5]}}, "schedule.milestones"),
    ({"schedule": {"kind": "step"}}, "schedule.step_size"),
    ({"schedule": {"kind": "warm_restarts"}}, "schedule.period"),
    ({"schedule": {"kind": "warmup_stable_decay"}}, "schedule.decay_steps"),
    ({"schedule": {"kind": "warmup_stable_decay", "decay_steps": 95}}, "schedule.decay_steps"),
    ({"schedule": {"kind": "cosine_warmup", "t_max": 10}}, "schedule.t_max"),
]


@pytest.mark.parametrize(("values", "key"), CONTRADICTIONS, ids=lambda v: str(v)[:50])
def test_settings_that_would_silently_switch_something_off_are_errors(values: dict[str, Any], key: str) -> None:
    """A history too short to ever judge, thresholds that overlap, a fault over no steps: each is named, not obeyed."""
    with pytest.raises(ConfigError, match=key):
        TrialConfig.parse(values)


@pytest.mark.parametrize("use", [".faults:black_images", "..faults:black_images", "a..b:c", ".:x"])
def test_import_path_of_a_fault_is_absolute(use: str) -> None:
    """A relative import path has nothing to be relative to."""
    with pytest.raises(ConfigError, match=r"faults\.0\.use"):
        TrialConfig.parse({"faults": [{"use": use}]})


@pytest.mark.parametrize("values", [{"max_steps": True}, {"optim": {"lr": True}}, {"seed": False}], ids=str)
def test_a_boolean_is_no_number(values: dict[str, Any]) -> None:
    """YAML reads `yes` and `on` as booleans; taken for 1 they would train one step at rate 1."""
    with pytest.raises(ConfigError, match="is not allowed"):
        TrialConfig.parse(values)


def test_defaults_are_a_whole_config() -> None:
    """An empty mapping is a run."""
    config = TrialConfig.parse({})
    assert config == TrialConfig()
    assert config.data.path == "digits"


def test_dump_and_parse_give_the_same_config() -> None:
    """What a sweep stores as JSON builds the same trial again, tuples and nested faults included."""
    config = TrialConfig.parse(
        {
            "seed": 2**63 - 1,
            "schedule": {"kind": "multi_step", "milestones": [3, 7], "gamma": 10.0},
            "faults": [{"use": "a.b:c", "start_step": 3, "stop_step": 9, "params": {"k": [1, 2]}}],
        }
    )
    assert TrialConfig.parse(config.model_dump(mode="json")) == config


def test_a_config_is_frozen() -> None:
    """Nothing changes a config after it was checked, nor a section of it."""
    config = TrialConfig()
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc] # that is the claim
    with pytest.raises(ValidationError):
        config.optim.lr = 1.0  # type: ignore[misc] # as above


def test_every_key_explains_itself() -> None:
    """Each value has a docstring: it is what a user reads when a key is refused."""
    top = TrialConfig()
    sections = [top, *(value for name in TrialConfig.model_fields if isinstance(value := getattr(top, name), Section))]
    keys = [(section, name, field) for section in sections for name, field in type(section).model_fields.items()]
    plain = [(name, field) for section, name, field in keys if not isinstance(getattr(section, name), Section)]
    assert len(plain) > 30
    assert [name for name, field in plain if not field.description] in ([], ["faults"])


def test_warmup_bound_holds_only_where_there_is_a_warmup() -> None:
    """A short run on a constant rate may leave `warmup_steps` at its default."""
    assert TrialConfig.parse({"max_steps": 5, "schedule": {"kind": "constant"}}).max_steps == 5
    with pytest.raises(ConfigError, match="below max_steps"):
        TrialConfig.parse({"max_steps": 10, "schedule": {"kind": "one_cycle", "warmup_steps": 10}})


EPOCHS: dict[str, Any] = {
    "max_steps": "90ep",
    "global_batch_size": 256,
    "eval_every": "1ep",
    "data": {"train_samples": 1_281_167},
    "schedule": {"kind": "multi_step", "milestones": ["30ep", "60ep", "80ep"]},
    "checkpoint": {"every": "0.5ep"},
}
"""The 90 epochs of ImageNet, as people write them down."""


def test_lengths_in_epochs_become_steps() -> None:
    """An epoch is train_samples / global_batch_size steps, each length rounded up by itself; then it is a config."""
    config = TrialConfig.parse(EPOCHS)
    assert config.max_steps == math.ceil(90 * 1_281_167 / 256) == 450_411
    assert config.eval_every == 5005
    assert config.schedule.milestones == (150_137, 300_274, 400_365)
    assert config.checkpoint.every == 2503
    assert TrialConfig.parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data": {}}, r"^max_steps: '90ep' .* as data.train_samples is not given; remedy: set data.train_samples"),
        ({"max_steps": "90 epochs"}, r"^max_steps: '90 epochs' .*of epochs as 90ep; remedy: correct max_steps$"),
        ({"schedule": {"kind": "step", "step_size": "ep"}}, r"^schedule.step_size: 'ep' "),
        ({"max_steps": "0ep"}, r"^max_steps: 0 .*greater than or equal to 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_length_that_is_none_is_one_line(changes: dict[str, Any], line: str) -> None:
    """Epochs without a data set size, and what is no length at all."""
    with pytest.raises(ConfigError, match=line):
        TrialConfig.parse(EPOCHS | changes)

"""Every built-in fault of training that makes an event is found under its own name, by a small net on the digits.

Those that make none here, whatever their strength, are listed: `WITHOUT_EVENT`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trainables.diagnosis.causes import group_of
from trainables.faults import BUILT_IN

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.diagnosis.conftest import MakeSmall

START = 50


@dataclass(frozen=True)
class Injected:
    """A fault, and the cause that is right."""

    cause: str
    params: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=lambda: {"lr": 0.05})
    start: int = START
    changes: dict[str, Any] = field(default_factory=dict)


FAULTS = {
    "learning_rate_factor": Injected("lr_jump", {"factor": 50.0}),
    "weight_decay": Injected("weight_decay", {"value": 20.0}),
    "moment_decay": Injected("adaptive_state_lag", {"beta2": 0.0, "eps": 1e-12}, {"kind": "adamw", "lr": 0.003}),
    "batch_norm_eps": Injected("norm_eps", {"eps": 100.0}),
    "large_scale": Injected("bn_gamma_init", {"factor": 8.0}),
    "preprocessing": Injected("channel_swap", {"normalization": "bgr"}),
    "black_images": Injected("corrupt_images", {"share": 0.7}),
    "outlier_samples": Injected("outlier_samples"),
    "non_finite_input": Injected("non_finite_input"),
    "poisoned_batch": Injected("poisoned_batch", {"size": 2}),
    "sorted_by_class": Injected("batch_shift"),
    "sorted_by_brightness": Injected("batch_shift"),
    "shuffled_labels": Injected("label_shuffle"),
    "offset_labels": Injected("label_offset"),
    "noisy_labels": Injected("label_noise", {"share": 0.6}),
    "half_precision": Injected("fp16_overflow", {"loss_scale": 2.0**30}),
    "missing_zero_grad": Injected("missing_zero_grad"),
    "double_step": Injected("double_step"),
    "accumulation_unscaled": Injected("accumulation_unscaled", {"parts": 64}),
}
WITHOUT_EVENT = {
    *("batch_norm_momentum", "corrupt_running_statistics", "evaluation_preprocessing", "low_precision_statistics"),
    *("wrong_metric", "optimizer_state_lost", "frozen_batch_norm", "unstable_loss"),
    *("learning_rate_of_another_step", "wrong_t_max", "no_warmup"),
}
"""The first five change evaluation alone; the others leave the loss of so small a net where its noise hides them."""
ELSEWHERE = {"rank_desync", "bit_flip"}
"""test_two_ranks.py, test_unexplained.py."""


def test_every_built_in_fault_is_accounted_for() -> None:
    """With the cause that it has to get, as one without an event, or in a file of its own."""
    assert {fault.__name__ for fault in BUILT_IN} == {*FAULTS, *WITHOUT_EVENT, *ELSEWHERE}


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_has_its_name(small: MakeSmall, tiny: Tiny, name: str) -> None:
    """The cause, its group, a cure that was verified, and the step or the samples that are guilty."""
    injected = FAULTS[name]
    fault = {"use": f"trainables.faults:{name}", "start_step": injected.start, "params": injected.params}
    changes = {"global_batch_size": 32, "max_steps": 80, "optim": injected.optim, "faults": [fault]} | injected.changes
    result = small(tiny(**changes, diagnosis={"replicates": 1})).run()
    found = result.diagnosis
    assert found is not None
    assert found.cause == injected.cause, found.summary
    assert found.group == group_of(injected.cause, "pixels")
    assert found.remedy is not None
    assert found.remedy.verified
    assert found.replayed_steps <= 750
    assert found.culprits.sample_ids or found.culprits.step == injected.start
    assert np.all(np.diff(found.culprits.sample_ids) > 0)

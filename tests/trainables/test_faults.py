"""Each built-in fault swaps one ingredient and nothing else, and a wrong one is one line."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from trainables.config import FaultConfig
from trainables.errors import ConfigError
from trainables.faults import BUILT_IN, build_faults
from trainables.ingredients import (
    Batch,
    EvaluationIngredients,
    Ingredients,
    load_batch,
    with_evaluation_swaps,
    with_swaps,
)
from trainables.ranks import Ranks
from trainables.recipe import Recipe

if TYPE_CHECKING:
    from tests.trainables.conftest import Build, Tiny

PARAMS: dict[str, dict[str, Any]] = {
    "accumulation_unscaled": {"parts": 4},
    "batch_norm_eps": {"eps": 1.0},
    "batch_norm_momentum": {"momentum": 1.0},
    "bit_flip": {"parameter": "fc.weight"},
    "evaluation_preprocessing": {"normalization": "bgr"},
    "half_precision": {"loss_scale": 1024.0},
    "learning_rate_factor": {"factor": 20.0},
    "learning_rate_of_another_step": {"offset": 5},
    "moment_decay": {"beta2": 0.5},
    "noisy_labels": {"share": 0.4},
    "preprocessing": {"normalization": "bgr"},
    "weight_decay": {"value": 0.5},
    "wrong_t_max": {"t_max": 6},
}
TOUCHES: dict[str, set[str]] = {
    "accumulation_unscaled": {"gradient_edits"},
    "batch_norm_eps": {"norm"},
    "batch_norm_momentum": {"norm"},
    "bit_flip": {"edits"},
    "black_images": {"decode"},
    "corrupt_running_statistics": {"edits"},
    "double_step": {"code"},
    "evaluation_preprocessing": set(),
    "frozen_batch_norm": {"norm"},
    "half_precision": {"amp", "loss_scale"},
    "large_scale": {"edits"},
    "learning_rate_factor": {"optim"},
    "learning_rate_of_another_step": {"optim"},
    "low_precision_statistics": {"edits"},
    "missing_zero_grad": {"code"},
    "moment_decay": {"optim"},
    "no_warmup": {"optim"},
    "noisy_labels": {"label"},
    "non_finite_input": {"normalize"},
    "offset_labels": {"label"},
    "optimizer_state_lost": {"edits"},
    "outlier_samples": {"normalize"},
    "poisoned_batch": {"sample_ids"},
    "preprocessing": {"normalize"},
    "rank_desync": {"edits"},
    "shuffled_labels": {"label"},
    "sorted_by_brightness": {"sample_ids"},
    "sorted_by_class": {"sample_ids"},
    "unstable_loss": {"loss"},
    "weight_decay": {"optim"},
    "wrong_metric": set(),
    "wrong_t_max": {"optim"},
}
TOUCHES_EVALUATION = {"batch_norm_eps": {"norm"}, "evaluation_preprocessing": {"normalize"}, "wrong_metric": {"metric"}}
"""All others leave evaluation alone."""


def faulty(recipe: Recipe, name: str, step: int, *, start: int = 0, **params: Any) -> Ingredients:
    """What `step` is made of under one built-in fault."""
    config = FaultConfig(use=f"trainables.faults:{name}", start_step=start, params=params or PARAMS.get(name, {}))
    return with_swaps(recipe.ingredients, build_faults([config], recipe))(step)


def batch_of(ingredients: Ingredients) -> Batch:
    """The whole batch."""
    return load_batch(ingredients, Ranks())


def differing(plain: object, actual: object) -> set[str]:
    """Fields that are not the very value of `plain`; bound methods compare by what they are bound to."""
    assert isinstance(plain, Ingredients | EvaluationIngredients)
    names = [field.name for field in fields(plain)]
    return {name for name in names if not np.array_equal(getattr(plain, name), getattr(actual, name))}


@pytest.fixture(scope="module")
def warmed(build: Build, tiny: Tiny) -> Recipe:
    """A recipe whose schedule has a warm-up and a fall for faults of the rate to act on."""
    return build(tiny(schedule={"kind": "cosine_warmup", "warmup_steps": 5})).recipe


@pytest.mark.parametrize("name", TOUCHES)
def test_a_fault_swaps_one_ingredient(warmed: Recipe, name: str) -> None:
    """Every other ingredient is the very value of the recipe, and before `start_step` all of them are."""
    assert {fault.__name__ for fault in BUILT_IN} == set(TOUCHES)
    # In the warm-up no t_max shows, after it no missing warm-up.
    step = 8 if name == "wrong_t_max" else 3
    plain = warmed.ingredients(step)
    assert differing(plain, faulty(warmed, name, step, start=step)) == TOUCHES[name]
    assert differing(plain, faulty(warmed, name, step, start=step + 1)) == set()


@pytest.mark.parametrize("name", TOUCHES)
def test_a_fault_reaches_the_evaluations_after_its_first_step(recipe: Recipe, name: str) -> None:
    """The evaluation after the fault's first step is the first that it reaches, if it reaches any."""
    config = FaultConfig(use=f"trainables.faults:{name}", start_step=3, params=PARAMS.get(name, {}))
    evaluations = with_evaluation_swaps(recipe.evaluation, build_faults([config], recipe))
    assert differing(recipe.evaluation(4), evaluations(4)) == TOUCHES_EVALUATION.get(name, set())
    assert differing(recipe.evaluation(3), evaluations(3)) == set()


@pytest.mark.parametrize("name", TOUCHES)
def test_a_fault_is_a_function_of_the_step(recipe: Recipe, name: str) -> None:
    """Replaying a faulty step replays the fault: pixels, input and labels come back with the same bits."""
    one, other = faulty(recipe, name, 5), faulty(recipe, name, 5)
    first, second = batch_of(one), batch_of(other)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(one.normalize(first.images).nan_to_num(7), other.normalize(second.images).nan_to_num(7))


def test_learning_rate_factor(recipe: Recipe) -> None:
    """The rate is multiplied."""
    assert faulty(recipe, "learning_rate_factor", 3).learning_rate == 20 * recipe.ingredients(3).learning_rate


def test_offset_labels_wrap_around(recipe: Recipe) -> None:
    """Every label is the next class, and the last class becomes the first."""
    ids = np.arange(len(recipe.index.train))
    given = faulty(recipe, "offset_labels", 0).label(ids, ids)
    np.testing.assert_array_equal(given, (recipe.index.train.labels + 1) % 10)


def test_shuffled_labels_keep_the_classes_frequencies(recipe: Recipe) -> None:
    """Labels change places: counts stay, the relation to the image goes, and a sample keeps its wrong label."""
    ids = np.arange(len(recipe.index.train))
    truth = recipe.index.train.labels
    given = faulty(recipe, "shuffled_labels", 0).label(ids, ids)
    np.testing.assert_array_equal(np.bincount(given), np.bincount(truth))
    assert 0.85 < float((given != truth).mean()) < 0.95
    np.testing.assert_array_equal(faulty(recipe, "shuffled_labels", 40).label(ids, ids), given)


def test_sorted_by_class_brings_few_classes_a_batch(recipe: Recipe) -> None:
    """A batch has one class, or two at a border, and the epoch has them all."""
    truth = recipe.index.train.labels
    batches = [truth[faulty(recipe, "sorted_by_class", step).sample_ids] for step in range(188)]
    assert all(len(np.unique(batch)) <= 2 for batch in batches)
    assert set(np.concatenate(batches)) == set(range(10))


def test_sorted_by_brightness_brings_the_brightest(recipe: Recipe) -> None:
    """Batches are far brighter than the data set, and equally bright within."""
    everything = recipe.train.fetch(np.arange(len(recipe.index.train)), None).float().mean(dim=(1, 2, 3))
    for step in (0, 10, 100):
        batch = everything[torch.from_numpy(faulty(recipe, "sorted_by_brightness", step).sample_ids)]
        assert len(set(batch.tolist())) > 1
        assert float(batch.mean()) > float(everything.quantile(0.7))
        assert float(batch.std()) < 0.5 * float(everything.std())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_black_images_hit_their_share_of_the_samples(recipe: Recipe, share: float) -> None:
    """The same samples are black in every epoch, the others are untouched."""
    ids = np.arange(300)
    ingredients = faulty(recipe, "black_images", 0, share=share)
    images, raw = ingredients.decode(ids, ids * 0), recipe.train.fetch(ids, 0)
    black = (images == 0).flatten(1).all(dim=1)
    assert float(black.float().mean()) == pytest.approx(share, abs=0.1)
    assert torch.equal(images[~black], raw[~black])
    again = ingredients.decode(ids[::-1].copy(), ids * 0 + 9)
    assert torch.equal((again == 0).flatten(1).all(dim=1).flip(0), black)


def test_black_images_of_no_samples(recipe: Recipe) -> None:
    """A replay whose batch is the whole data set draws no companions: none decode to none, not to an error."""
    assert len(faulty(recipe, "black_images", 0).decode(np.empty(0, np.int64), np.empty(0, np.int64))) == 0


def test_non_finite_input_is_one_pixel(recipe: Recipe) -> None:
    """One nan in the batch; the rest of the input has its bits."""
    ingredients = faulty(recipe, "non_finite_input", 0)
    images = batch_of(ingredients).images
    actual, plain = ingredients.normalize(images), recipe.declared_normalization(images)
    assert int(actual.isnan().sum()) == 1
    assert int((actual != plain).sum()) == 1


def test_preprocessing_is_another_normalization(recipe: Recipe) -> None:
    """As in a restart whose code has another one."""
    images = batch_of(recipe.ingredients(0)).images
    actual = faulty(recipe, "preprocessing", 0, normalization="bgr").normalize(images)
    assert torch.equal(actual, recipe.declared_normalization(images.flip(-1)))


def test_a_fault_of_ones_own_works_the_same_way(recipe: Recipe, tmp_path: Path) -> None:
    """Any importable `module:name` that takes the recipe and its parameters is a fault."""
    (tmp_path / "epoch14_my_faults.py").write_text(
        "from dataclasses import replace\n"
        "def hot(recipe, *, degrees):\n"
        "    return lambda i: i.at_rate(recipe.config.optim.lr * degrees)\n"
    )
    config = FaultConfig(use="epoch14_my_faults:hot", params={"degrees": 5})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        swap = build_faults([config], recipe)[0]
    sys.modules.pop("epoch14_my_faults")
    assert swap.name == "epoch14_my_faults:hot"
    assert swap(recipe.ingredients(0)).learning_rate == pytest.approx(0.1)


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("trainables.faults:no_such", {}, "faults.1.use", "trainables.faults:black_images"),
    ("no_such_module:fault", {}, "faults.1.use", "an importable module:name"),
    ("trainables.faults:BUILT_IN", {}, "faults.1.use", "a function of (recipe, **params)"),
    ("trainables.faults:learning_rate_factor", {}, "faults.1.params", "factor"),
    ("trainables.faults:learning_rate_factor", {"factor": 2.0, "faktor": 3.0}, "faults.1.params", "faktor"),
    ("trainables.faults:preprocessing", {"normalization": "rgb"}, "faults.params.normalization", "one_scale"),
    ("trainables.faults:learning_rate_factor", {"factor": "20x"}, "faults.1.params", "factor"),
    ("trainables.faults:black_images", {"share": "half"}, "faults.1.params", "share"),
    ("trainables.faults:offset_labels", {"offset": "one"}, "faults.1.params", "offset"),
    ("builtins:repr", {}, "faults.1.", ""),
]


@pytest.mark.parametrize(("use", "params", "key", "allowed"), WRONG, ids=[f"{w[0]}-{w[1]}" for w in WRONG])
def test_a_wrong_fault_is_one_line_before_any_step(
    recipe: Recipe, use: str, params: dict[str, Any], key: str, allowed: str
) -> None:
    """An unknown name, a missing, unknown or mistyped parameter: key, value, what is allowed, the remedy."""
    good = FaultConfig(use="trainables.faults:shuffled_labels")
    with pytest.raises(ConfigError) as caught:
        build_faults([good, FaultConfig(use=use, params=params)], recipe)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.startswith(key)
    assert allowed in message
    assert "; remedy: " in message


def test_faults_reach_the_run(build: Build, tiny: Tiny) -> None:
    """Two faults of one config act one after the other, each in its span."""
    use = "trainables.faults:learning_rate_factor"
    bench = build(
        tiny(
            faults=[
                {"use": use, "start_step": 2, "params": {"factor": 3.0}},
                {"use": use, "start_step": 3, "stop_step": 4, "params": {"factor": 5.0}},
            ]
        )
    )
    rates = [bench.stream(step).learning_rate / 0.02 for step in range(6)]
    assert rates == pytest.approx([1, 1, 3, 15, 3, 3])

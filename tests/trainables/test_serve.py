"""A saved network answers for itself as the run's evaluation did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trainables.errors import DataError
from trainables.evaluation import evaluate
from trainables.loop import run_steps
from trainables.serve import Network, load_network, network_weights, save_network

if TYPE_CHECKING:
    from tests.trainables.conftest import Bench, Build, Tiny

CONFIGS: list[dict[str, Any]] = [
    {},
    {"optim": {"lr": 0.02, "ema_decay": 0.5}},
    {"model": {"norm": "batch_renorm"}, "data": {"normalization": "bgr", "eval_size": 24, "eval_crop_ratio": 0.875}},
    {"model": {"norm": "frozen_bn"}},
    {"model": {"norm": "gn_ws"}, "data": {"normalization": "imagenet"}},
]


def saved(bench: Bench, folder: Path) -> Network:
    """The bench's network after some steps, written and read."""
    list(run_steps(bench.state, bench.stream, 0, 3, loader_threads=0))
    save_network(folder, bench.config, bench.recipe.index, bench.state.snapshot().tensors)
    return load_network(folder)


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_it_answers_as_the_evaluation_did(build: Build, tiny: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Top-1 over the whole split is the run's own: same side, crop, normalisation, and averaged weights."""
    bench = build(tiny(**changes))
    network = saved(bench, tmp_path)
    split = bench.recipe.val
    scores = evaluate(bench.state, bench.recipe.evaluation(0))
    ids = np.arange(len(split.split))
    # The split's own squares are cut already, so all of each is used.
    logits = replace(network, crop_ratio=1.0).predict(split.fetch(ids, None).numpy())
    assert float((logits.argmax(axis=1) == split.split.labels).mean()) == pytest.approx(scores.top1, abs=1e-9)
    assert network.classes == bench.recipe.index.classes


def test_averages_take_the_place_of_weights(build: Build, tiny: Tiny) -> None:
    """Each tensor of the network once, by its own name, the averaged one where there is one."""
    bench = build(tiny(optim={"ema_decay": 0.9}))
    tensors = bench.state.snapshot().tensors
    weights = network_weights(tensors)
    assert weights.keys() == bench.state.model.state_dict().keys()
    assert weights["conv1.weight"] is tensors["average/conv1.weight"]
    assert weights["bn1.num_batches_tracked"] is tensors["buffer/bn1.num_batches_tracked"]


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 3, 8, 8), np.uint8)],
    ids=["floats", "one image", "channels first"],
)
def test_another_array_is_one_line(build: Build, tiny: Tiny, tmp_path: Path, images: np.ndarray) -> None:
    """Type and shape, what is allowed, the remedy."""
    network = saved(build(tiny()), tmp_path)
    with pytest.raises(DataError, match=r"^images: .* allowed: uint8 \[n, height, width, 3\]; remedy: decode"):
        network.predict(images)


def test_no_images_give_no_rows(build: Build, tiny: Tiny, tmp_path: Path) -> None:
    """An empty batch has an answer of the right width."""
    assert saved(build(tiny()), tmp_path).predict(np.zeros((0, 16, 16, 3), np.uint8)).shape == (0, 10)

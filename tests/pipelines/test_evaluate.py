"""Scores of a network that stands by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate import evaluate_network, score
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex
from trainables.errors import DataError
from trainables.model import build_model
from trainables.serve import save_network


def test_score_counts_by_hand() -> None:
    """Of three images one is right at first, two among the likeliest five, and the loss is the mean cross-entropy."""
    logits = np.zeros((3, 7), np.float32)
    logits[0, 4] = 2.0
    logits[1] = [6, 5, 4, 3, 2, 1, 0]
    logits[2] = [6, 5, 4, 3, 2, 1, 0]
    scores = score(logits, np.array([4, 1, 6]), tuple("abcdefg"))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [scores.top1, scores.top5, scores.images] == pytest.approx([1 / 3, 2 / 3, 3])
    assert scores.loss == pytest.approx(-np.log(shares[[0, 1, 2], [4, 1, 6]]).mean(), rel=1e-6)
    assert scores.confusion.sum(axis=1).tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert scores.confusion[1, 0] == scores.confusion[6, 0] == scores.confusion[4, 4] == 1


def test_two_classes_have_no_top5() -> None:
    """With fewer than five classes every image is right among the likeliest."""
    scores = score(np.array([[0.0, 1.0]], np.float32), np.array([0]), ("cat", "dog"))
    assert (scores.top1, scores.top5) == (0.0, 1.0)


def test_no_image_is_no_score() -> None:
    """Where nothing decodes there is no share to tell."""
    with pytest.raises(DataError, match="at least one image that decodes"):
        score(np.empty((0, 2), np.float32), np.empty(0, np.int64), ("cat", "dog"))


def test_another_data_set_is_refused(digits_index: ImageIndex, tiny_images: object, tmp_path: Path) -> None:
    """A network is not scored on classes that it was not trained on."""
    config = TrialConfig.parse({"model": {"name": "resnet18", "width": 0.5, "norm": "gn"}, "data": {"image_size": 8}})
    model = build_model(config.model, num_classes=10, image_size=8, seed=0)
    tensors = {f"parameter/{name}": tensor.detach() for name, tensor in model.named_parameters()}
    tensors |= {f"buffer/{name}": tensor for name, tensor in model.named_buffers()}
    (tmp_path / "network").mkdir()
    save_network(tmp_path / "network", config, digits_index, tensors)
    assert callable(tiny_images)
    folder = tiny_images(val=3)
    with pytest.raises(DataError, match="the 10 classes that the network was trained on"):
        evaluate_network(tmp_path / "network", str(folder))
    assert evaluate_network(tmp_path / "network", digits_index.root).images == len(digits_index.val)

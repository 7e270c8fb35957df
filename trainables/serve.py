"""A trained network by itself: its folder, written without pickle, and what answers for it.

    weights.safetensors   parameters and buffers; the averaged ones where the run kept averages
    model.json            architecture, classes, sides, normalisation

MLflow's pyfunc loads it through `_load_pyfunc`; `load_network` does the same without MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from trainables.config import ModelConfig, TrialConfig
from trainables.data.images import centre_square
from trainables.data.index import ImageIndex
from trainables.data.normalize import Normalization, build_normalization
from trainables.data_config import DataConfig
from trainables.errors import DataError, complaint
from trainables.model import build_model

WEIGHTS = "weights.safetensors"
CARD = "model.json"
AT_ONCE = 256
"""Images that go through the network together."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network in evaluation mode, with all that lies between an image and its logits."""

    model: nn.Module
    classes: tuple[str, ...]
    side: int
    """Of the square that the network sees, in pixels."""
    crop_ratio: float
    """Side of that square over the short side of the resized image."""
    normalize: Normalization

    @torch.no_grad()
    def predict(self, images: np.ndarray, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """Classify images as the run's own evaluation does: resize, centre crop, normalise, forward in float32.

        Args:
            images: uint8 [n, height, width, 3], RGB, of any size.
            params: none are known; MLflow passes them.

        Returns:
            Logits, float32 [n, classes].

        Raises:
            DataError: the array is of another shape or type.

        """
        del params
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            given = f"{images.dtype} {list(images.shape)}"
            raise DataError(complaint("images", given, "uint8 [n, height, width, 3]", "decode to RGB bytes first"))
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        squares = centre_square(pixels, self.side, self.crop_ratio).permute(0, 2, 3, 1)
        logits = [self.model(self.normalize(part)) for part in squares.split(AT_ONCE)]
        return np.asarray(torch.cat(logits).float().numpy()) if logits else np.empty((0, len(self.classes)), np.float32)


def save_network(folder: Path, config: TrialConfig, index: ImageIndex, tensors: Mapping[str, Tensor]) -> None:
    """Write the network of a checkpoint's `tensors`, which `config` trained on `index`, into an empty folder."""
    plain = {name: tensor.contiguous() for name, tensor in network_weights(tensors).items()}
    safetensors.torch.save_file(plain, str(folder / WEIGHTS))
    card = {
        "model": config.model.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", include={"image_size", "eval_size", "eval_crop_ratio"}),
        "normalization": config.data.normalization,
        "channel_mean": index.channel_mean,
        "channel_std": index.channel_std,
        "classes": index.classes,
    }
    (folder / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")


def load_network(folder: Path) -> Network:
    """The network that `save_network` wrote, on the CPU."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    data = DataConfig.parse(card["data"])
    config = ModelConfig.parse(card["model"])
    model = build_model(config, num_classes=len(card["classes"]), image_size=data.image_size, seed=0)
    model.load_state_dict(safetensors.torch.load_file(str(folder / WEIGHTS)))
    moments = (tuple(card["channel_mean"]), tuple(card["channel_std"]))
    return Network(
        model.eval(),
        tuple(card["classes"]),
        data.eval_size or data.image_size,
        data.eval_crop_ratio,
        build_normalization(card["normalization"], *moments),
    )


def network_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What evaluation uses of a train state, by the names that the module has."""
    kinds = {kind: _below(f"{kind}/", tensors) for kind in ("parameter", "buffer", "average")}
    return kinds["parameter"] | kinds["buffer"] | kinds["average"]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_pyfunc(data_path: str) -> Network:
    """MLflow's entry point."""
    return load_network(Path(data_path))

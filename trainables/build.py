"""The parts of a run on this process's device: where it is, the network and its optimizer, the process that loads."""

from __future__ import annotations

import sys

import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.data.loader_process import LoaderProcess
from trainables.errors import ConfigError, complaint
from trainables.loop import warm_up
from trainables.model import build_model
from trainables.optim import build_optimizer
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.state import TrainState

MOST_SHAPES = 64
"""Input shapes that a network is compiled for: sides of growing images, shares, last batches, training or not."""


def with_loader(recipe: Recipe, device: torch.device) -> tuple[Recipe, LoaderProcess | None]:
    """The recipe, and the process that makes its images, where data.loader has one beside a training on `device`."""
    data = recipe.config.data
    beside_gpu = device.type == "cuda" and data.loader_threads > 0 and sys.platform == "linux"
    if data.loader == "threads" or (data.loader == "auto" and not beside_gpu):
        return recipe, None
    sources = {"train": recipe.train, "val": recipe.val}
    loader = LoaderProcess(sources, data.loader_threads, pinned=device.type == "cuda")
    return recipe.helped_by(loader), loader


def build_state(config: TrialConfig, num_classes: int, ranks: Ranks) -> TrainState:
    """Model and optimizer of `config` on this process's device."""
    device = choose_device(config.device)
    layout = torch.channels_last if config.precision.channels_last else torch.contiguous_format
    model = build_model(config.model, num_classes=num_classes, image_size=config.data.image_size, seed=config.seed)
    model = model.to(device).to(memory_format=layout)
    if config.precision.compile:
        compile_each_shape(model)
    state = TrainState(
        model,
        build_optimizer(model, config.optim),
        device,
        ranks,
        layout,
        ema_decay=config.optim.ema_decay,
        scale_loss=config.precision.amp == "fp16",
        micro_batch_size=config.optim.micro_batch_size,
    )
    if ranks.world_size > 1:
        warm_up(state, config.data.image_size)
    return state


def compile_each_shape(model: nn.Module) -> None:
    """Compile `model` anew for each shape of its input, so that a step's bits don't depend on the shapes before it.

    Left to itself dynamo turns to dynamic sizes at the second shape it sees, and to eager at the ninth: a run with
    growing images would end with other bits after a resume.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)  # noqa: SLF001
    model.compile(dynamic=False)


def choose_device(name: str) -> torch.device:
    """CUDA device of this rank, or the CPU. Raises ConfigError where CUDA is asked for and absent."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            complaint("device", name, "cpu or auto on this machine, which has no GPU", "set device to auto")
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())

"""Faults of one rank of several: the others are sound, and the verdict must name the one that is not."""

from __future__ import annotations

from typing import Any

import torch

from tests.benchmarks.diagnosis.below import LIVE, flip
from tests.benchmarks.diagnosis.variant import Variant
from trainables.ingredients import Edit
from trainables.state import TrainState


def seam(name: str, fault: str, cause: str, rank: int, layer: str = "", **params: Any) -> Variant:
    """A built-in fault that acts on `rank`."""
    return Variant(name, "seam", (cause,), rank=rank, layer=layer, faults=((fault, {"rank": rank, **params}),))


def memory(name: str, edit: Edit, rank: int, *causes: str, layer: str = "", why: str = "") -> Variant:
    """`edit` to the live state of `rank` alone."""

    def on_rank(state: TrainState) -> None:
        if state.ranks.rank == rank:
            edit(state)

    return Variant(name, "memory", causes, why, rank=rank, layer=layer, edit=on_rank)


def scale(parameter: str, factor: float) -> Edit:
    """One parameter times `factor`."""

    def edit(state: TrainState) -> None:
        with torch.no_grad():
            state.model.get_parameter(parameter).mul_(factor)

    return edit


def move(state: TrainState) -> None:
    """All weights move by noise of their own size."""
    state.add_weight_noise(1.0, seed=1)


STEM, BLOCK, HEAD = "conv1.weight", "layer2.0.conv2.weight", "fc.weight"
FLIP = "silent_corruption"

ONE_RANK = (
    seam("bit-flip-stem-rank-1", "bit_flip", FLIP, 1, STEM, parameter=STEM),
    seam("bit-flip-block-rank-1", "bit_flip", FLIP, 1, BLOCK, parameter=BLOCK),
    seam("bit-flip-fc-rank-0", "bit_flip", FLIP, 0, HEAD, parameter=HEAD),
    seam("bit-flip-fc-rank-1", "bit_flip", FLIP, 1, HEAD, parameter=HEAD),
    seam("desync-rank-0", "rank_desync", "rank_desync", 0, relative=3.0),
    seam("desync-rank-1", "rank_desync", "rank_desync", 1, relative=3.0),
    memory("memory-flip-stem-rank-1", flip(STEM, 30), 1, FLIP, layer=STEM),
    memory("memory-flip-fc-rank-0", flip(HEAD, 30), 0, FLIP, layer=HEAD),
    memory("memory-flip-fc-rank-1", flip(HEAD, 30), 1, FLIP, layer=HEAD),
    memory("memory-head-rank-1", scale(HEAD, -50.0), 1, FLIP, "rank_desync", layer=HEAD, why=LIVE),
    memory("memory-desync-rank-1", move, 1, "rank_desync", FLIP, why=LIVE),
)

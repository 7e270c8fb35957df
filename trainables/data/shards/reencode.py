"""Images made smaller once, so that every later epoch decodes less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainables.data.decode import read_rgb, undecodable
from trainables.data.shards.format import Reencode
from trainables.data.spacing import evenly_spaced
from trainables.data.store import Encoded, Store

SAMPLED = 64
"""Images from which the size of all of them is estimated."""


@dataclass(frozen=True)
class ReencodedStore:
    """Another store's images as JPEGs whose short side is no longer than asked for.

    An image changes even where it is small enough: its JPEG is written anew.
    """

    store: Store
    reencode: Reencode

    @property
    def names(self) -> Sequence[str]:
        """Those of the other store."""
        return self.store.names

    def locate(self, place: int) -> str:
        """Where the original is."""
        return self.store.locate(place)

    def read(self, place: int) -> Encoded:
        """Decode, resize, encode. Raises DataError where the original doesn't decode, or is too long."""
        pixels = read_rgb(self.store, place)
        if min(pixels.shape[1:]) > self.reencode.short:
            pixels = functional.resize(pixels, [self.reencode.short], antialias=True)
        try:
            # The operator behind torchvision.io.encode_jpeg, whose wrapper warns at every call from 0.29 on.
            encoded: Encoded = torch.ops.image.encode_jpeg(pixels.contiguous(), self.reencode.quality).numpy()
        except RuntimeError:
            # A PNG may be longer than the 65,500 pixels that a JPEG holds.
            raise undecodable(self.locate(place), f"{pixels.shape[2]}x{pixels.shape[1]} fits no JPEG") from None
        return encoded


def size_ratio(store: ReencodedStore, lengths: np.ndarray) -> float:
    """Bytes of re-encoded images over those of the originals, from SAMPLED evenly spaced ones; lengths: int64 [n]."""
    places = evenly_spaced(len(lengths), SAMPLED)
    before = sum(int(lengths[place]) for place in places)
    return sum(len(store.read(place)) for place in places) / max(before, 1)

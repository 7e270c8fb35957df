"""Pictures of which a region alone is decoded: a crop costs what lies above its bottom. For JPEG (extra `fast`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from trainables.data import decode_nvimgcodec, decode_turbojpeg
from trainables.data.decode import Decoder, Picture, WholePicture, open_whole
from trainables.data.header import JPEG, MAX_PIXELS, announced_size
from trainables.data.store import Encoded
from trainables.errors import ConfigError, complaint

END = b"\xff\xd9"
"""Last bytes of a whole JPEG."""
RegionDecoder = Callable[[Encoded, int, int, int, int], torch.Tensor | None]
"""(bytes of a JPEG, top, left, height, width) -> uint8 [3, height, width], torchvision's pixels; None: it has none."""
_LIBRARIES = {"turbojpeg": decode_turbojpeg, "nvimgcodec": decode_nvimgcodec}


def open_decoder(name: str) -> Decoder:
    """The decoder of data.decoder, e.g. turbojpeg. Raises ConfigError where the extra is missing."""
    if name == "torchvision":
        return open_whole
    library = _LIBRARIES[name]
    try:
        library.load()
    except ImportError as error:
        allowed = f"torchvision here, where {library.NAME} can't be loaded ({error})"
        raise ConfigError(complaint("data.decoder", name, allowed, "install the extra `fast`")) from None
    return partial(open_region, library.decode_region)


def open_region(decode_region: RegionDecoder, encoded: Encoded, where: str) -> Picture:
    """A whole JPEG, of which only what is asked for is decoded; anything else as torchvision decodes it.

    Its pixels are torchvision's to the last bit. Damage below a region is not seen, as nothing there is read; a file
    that was cut off is found all the same, by its missing end.
    """
    if encoded[:2].tobytes() != JPEG or encoded[-2:].tobytes() != END:
        return open_whole(encoded, where)
    height, width = announced_size(encoded)
    if not 0 < height * width <= MAX_PIXELS:
        return open_whole(encoded, where)
    return EncodedPicture(encoded, where, height, width, decode_region)


@dataclass(frozen=True, eq=False)
class EncodedPicture(WholePicture):
    """A JPEG that is decoded as far as is asked for; as a whole by torchvision, which sees all damage."""

    decode_region: RegionDecoder

    def region(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """A rectangle of its pixels; where the library gives none, torchvision's or its error."""
        pixels = self.decode_region(self.encoded, top, left, height, width)
        return super().region(top, left, height, width) if pixels is None else pixels

"""Region-of-interest decoding with nvImageCodec on the CPU (extra `fast`): a crop costs what lies above its bottom."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.data.decode import DecodedPicture, Decoder, Picture, decode_rgb, open_whole
from trainables.data.header import JPEG, MAX_PIXELS, announced_size
from trainables.data.store import Encoded
from trainables.errors import ConfigError, complaint

END = b"\xff\xd9"
"""Last bytes of a whole JPEG."""
EXTENSIONS_PATH = "NVIMGCODEC_EXTENSIONS_PATH"
_of_thread = threading.local()


def open_decoder(name: str) -> Decoder:
    """The decoder of data.decoder: `torchvision` or `nvimgcodec`. Raises ConfigError where the extra is missing."""
    if name == "torchvision":
        return open_whole
    try:
        _codec()
    except ImportError as error:
        allowed = f"torchvision here, where nvImageCodec can't be loaded ({error})"
        raise ConfigError(complaint("data.decoder", name, allowed, "install the extra `fast`")) from None
    return open_region


def open_region(encoded: Encoded, where: str) -> Picture:
    """A whole JPEG, of which only what is asked for is decoded; anything else as torchvision decodes it.

    Its pixels are torchvision's to the last bit. Damage below a region is not seen, as nothing there is read; a file
    that was cut off is found all the same, by its missing end.
    """
    if encoded[:2].tobytes() != JPEG or encoded[-2:].tobytes() != END:
        return open_whole(encoded, where)
    codec = _codec()
    try:
        stream = codec.CodeStream(encoded)
        height, width = int(stream.height), int(stream.width)
    except RuntimeError:
        return open_whole(encoded, where)
    announced = announced_size(encoded)
    if announced[0] * announced[1] > MAX_PIXELS:
        return open_whole(encoded, where)
    return _EncodedPicture(codec, stream, encoded, where, height, width)


class _EncodedPicture:
    """A JPEG as nvImageCodec sees it."""

    def __init__(self, codec: Any, stream: Any, encoded: Encoded, where: str, height: int, width: int) -> None:
        self._codec = codec
        self._stream = stream
        self._encoded = encoded
        self._where = where
        self.height = height
        self.width = width

    def whole(self) -> torch.Tensor:
        """All pixels, by torchvision, which sees all damage."""
        return decode_rgb(self._encoded, self._where)

    def region(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """A rectangle of them; where nvImageCodec gives none, torchvision's pixels or its error."""
        bounds = self._codec.Region(top, left, top + height, left + width)
        decoder, parameters = _decoder(self._codec)
        image = decoder.decode(self._stream.get_sub_code_stream(region=bounds), params=parameters)
        if image is None:
            return DecodedPicture(self.whole()).region(top, left, height, width)
        return torch.from_numpy(np.asarray(image)).permute(2, 0, 1)


def _decoder(codec: Any) -> tuple[Any, Any]:
    """Its decoder of this thread, which works in this thread alone, and how it is to decode."""
    if not hasattr(_of_thread, "decoder"):
        backend = codec.Backend(codec.BackendKind.CPU_ONLY)
        _of_thread.decoder = codec.Decoder(
            device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY, max_num_cpu_threads=1, backends=[backend]
        )
        _of_thread.parameters = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.SRGB)
    return _of_thread.decoder, _of_thread.parameters


@cache
def _codec() -> Any:
    """The library with libjpeg-turbo alone: its other extensions print what they lack when they are loaded."""
    spec = importlib.util.find_spec("nvidia.nvimgcodec")
    if spec is None or spec.origin is None:
        raise ImportError("no module nvidia.nvimgcodec")
    before = os.environ.get(EXTENSIONS_PATH)
    with tempfile.TemporaryDirectory() as folder:
        for file in (Path(spec.origin).parent / "extensions").glob("libjpeg_turbo_ext*"):
            Path(folder, file.name).symlink_to(file)
        os.environ[EXTENSIONS_PATH] = folder
        try:
            from nvidia import nvimgcodec
        finally:
            os.environ.pop(EXTENSIONS_PATH)
            if before is not None:
                os.environ[EXTENSIONS_PATH] = before
    return nvimgcodec

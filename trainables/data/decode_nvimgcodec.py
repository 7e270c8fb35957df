"""Regions of a JPEG by nvImageCodec, on the CPU."""

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

from trainables.data.store import Encoded

NAME = "nvImageCodec"
EXTENSIONS_PATH = "NVIMGCODEC_EXTENSIONS_PATH"
_of_thread = threading.local()


def decode_region(encoded: Encoded, top: int, left: int, height: int, width: int) -> torch.Tensor | None:
    """uint8 [3, height, width], RGB; None: it can't."""
    codec = load()
    bounds = codec.Region(top, left, top + height, left + width)
    decoder, parameters = _decoder(codec)
    try:
        stream = codec.CodeStream(encoded).get_sub_code_stream(region=bounds)
    except RuntimeError:
        return None
    image = decoder.decode(stream, params=parameters)
    return None if image is None else torch.from_numpy(np.asarray(image)).permute(2, 0, 1)


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
def load() -> Any:
    """The library with libjpeg-turbo alone: its other extensions print what they lack when they are loaded.

    Raises ImportError where it isn't installed.
    """
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

"""One image file to pixels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode
from torchvision.transforms.v2 import functional

from trainables.errors import DataError, complaint


def decode_rgb(path: str) -> torch.Tensor:
    """Decode one JPEG or PNG, as stored (EXIF orientation is not applied).

    Returns:
        uint8 [3, height, width], in RGB; grey and CMYK are converted, alpha is dropped, 16 bits become 8.

    Raises:
        DataError: the file is missing, empty, damaged or an animation; the line names it.

    """
    try:
        data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
        # The operator behind torchvision.io.decode_image, whose wrapper warns at every call from 0.29 on.
        pixels: torch.Tensor = torch.ops.image.decode_image(data, ImageReadMode.RGB.value)
    except OSError as error:
        raise _undecodable(path, error.strerror or "it can't be read") from None
    except RuntimeError as error:
        raise _undecodable(path, _reason(error)) from None
    if pixels.ndim != 3:
        raise _undecodable(path, f"{pixels.shape[0]} frames")
    if pixels.dtype != torch.uint8:
        pixels = functional.to_dtype(pixels, torch.uint8, scale=True)
    return pixels


def _reason(error: RuntimeError) -> str:
    """First line of torchvision's message, without the place in its C++ sources that stands before it."""
    first = str(error).strip().partition("\n")[0]
    return re.sub(r"^\S+, \S+:\d+, ", "", first) or "no reason given"


def _undecodable(path: str, reason: str) -> DataError:
    allowed = f"JPEG and PNG files that decode ({reason})"
    return DataError(complaint("data.path", Path(path).name, allowed, f"replace or remove {path}"))

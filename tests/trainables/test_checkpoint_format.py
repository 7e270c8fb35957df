"""The bytes of a checkpoint give back what was saved, and any change of them is found."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.checkpoint_format import (
    FORMAT,
    DamagedError,
    _seal,
    pack_manifest,
    pack_tensors,
    unpack_manifest,
    unpack_tensors,
)

DRAW = torch.Generator().manual_seed(0)
NORMAL = torch.randn(6, 5, 4, 3, generator=DRAW)
ODD_FLOATS = torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e-45, 3.4e38])
# A quiet and a signalling NaN, each with a payload.
NANS = torch.tensor([0x7FC12345, 0x7F812345], dtype=torch.int32).view(torch.float32)
TENSORS: dict[str, Tensor] = {
    **{str(d): (NORMAL * 50).to(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)},
    **{str(d): (NORMAL * 50).abs().to(d) for d in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)},
    "bool": NORMAL > 0,
    "complex": torch.complex(NORMAL, -NORMAL),
    "large integers": torch.tensor([2**63 - 1, -(2**63), 2**53 + 1]),
    "odd floats": ODD_FLOATS,
    "nans": NANS,
    "0-dim": torch.tensor(7.25),
    "0-dim integer": torch.tensor(90),
    "empty": torch.empty(0),
    "empty too": torch.empty(3, 0, 2, dtype=torch.int64),
    "channels_last": NORMAL.contiguous(memory_format=torch.channels_last),
    "transposed": NORMAL[:, :, 0, 0].T,
    "every second": NORMAL.flatten()[::2],
    "expanded": torch.tensor([3.0]).expand(4, 2),
    "parameter": torch.nn.Parameter(NORMAL[0]),
    "name/with.dots and ünïcode": torch.ones(1),
}


def manifest_of(state: bytes, meta: object = None, step: int = 3) -> bytes:
    """A manifest of `state`."""
    return pack_manifest(step, 0.5, 1, json.dumps(meta), state)


def flipped(content: bytes, bit: int) -> bytes:
    """`content` with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def raw(tensor: Tensor) -> bytes:
    """The bits of a tensor, in the order of its indices."""
    plain = tensor.clone(memory_format=torch.contiguous_format).flatten()
    return plain.view(torch.uint8).numpy().tobytes()


def round_trip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pack and unpack."""
    state = pack_tensors(tensors)
    return unpack_tensors(state, unpack_manifest(manifest_of(state), 3))


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_tensor_comes_back_with_its_bits(name: str) -> None:
    """Dtype, shape and bits are those that were saved, whatever the strides."""
    expected = TENSORS[name].detach()
    actual = round_trip({name: TENSORS[name]})[name]
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert raw(actual) == raw(expected)


def test_tensors_that_share_memory_come_back_each() -> None:
    """Tied weights, and views of one buffer, are saved under each of their names."""
    buffer = torch.arange(10.0)
    tensors = {"tied": buffer, "tied too": buffer, "head": buffer[:6], "tail": buffer[4:], "all": buffer.view(2, 5)}
    actual = round_trip(tensors)
    assert {name: tensor.tolist() for name, tensor in actual.items()} == {n: t.tolist() for n, t in tensors.items()}


def test_what_comes_back_can_be_written_to() -> None:
    """Loaded tensors are memory of their own, not a read-only view of the file's bytes."""
    actual = round_trip({"a": torch.zeros(3), "b": torch.zeros(3)})
    actual["a"].add_(1)
    assert actual["a"].tolist() == [1.0] * 3
    assert actual["b"].tolist() == [0.0] * 3


def test_meta_keeps_the_bits_of_its_floats() -> None:
    """Each finite float, -0.0, denormals and infinities come back with their bits; nan comes back as nan."""
    words = torch.randint(-(2**63), 2**63 - 1, (2000,), generator=torch.Generator().manual_seed(1)).tolist()
    floats = [value for (value,) in struct.iter_unpack("<d", struct.pack(f"<{len(words)}q", *words)) if value == value]  # noqa: PLR0124
    meta: dict[str, Any] = {
        "floats": [*floats, 0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf],
        "nan": math.nan,
        "nested": {"text": "ü\n\ud800\x00", "none": None, "flag": True, "big": 2**80, "list": [[], {}]},
    }
    read = unpack_manifest(manifest_of(b"", meta), 3).meta
    assert struct.pack(f"{len(floats) + 6}d", *read["floats"]) == struct.pack(f"{len(floats) + 6}d", *meta["floats"])
    assert math.isnan(read["nan"])
    assert read["nested"] == meta["nested"]


def test_manifest_is_plain_json_with_the_documented_entries() -> None:
    """Any tool that reads JSON can look into it."""
    state = pack_tensors({"a": torch.ones(2)})
    values = json.loads(manifest_of(state, {"loss": 1.5}))
    assert list(values) == ["format", "step", "score", "sequence", "files", "meta", "blake2b"]
    assert (values["format"], values["step"], values["score"]) == (FORMAT, 3, 0.5)
    assert values["files"]["state.safetensors"]["size"] == len(state)
    assert values["meta"] == {"loss": 1.5}


def test_every_flipped_bit_of_the_manifest_is_found() -> None:
    """No single bit can change unseen, in the manifest's own hash neither."""
    content = manifest_of(b"state", {"losses": [0.25, math.nan], "name": "ü"})
    for place in range(len(content) * 8):
        with pytest.raises(DamagedError):
            unpack_manifest(flipped(content, place), 3)


def test_every_flipped_bit_of_the_state_is_found() -> None:
    """No single bit can change unseen: length, header or data."""
    state = pack_tensors({"weight": torch.arange(5.0), "step": torch.tensor(3)})
    manifest = unpack_manifest(manifest_of(state), 3)
    for place in range(len(state) * 8):
        with pytest.raises(DamagedError, match=r"hash of state\.safetensors is wrong"):
            unpack_tensors(flipped(state, place), manifest)


def test_every_truncation_is_found() -> None:
    """A file that ends early is damaged wherever it ends; so is one with bytes too many."""
    state = pack_tensors({"weight": torch.arange(5.0)})
    content = manifest_of(state, {"name": "x"})
    manifest = unpack_manifest(content, 3)
    for broken in (*(content[:end] for end in range(len(content))), content + b"\n", content + content):
        with pytest.raises(DamagedError):
            unpack_manifest(broken, 3)
    for broken in (*(state[:end] for end in range(len(state))), state + b"\0"):
        with pytest.raises(DamagedError, match="bytes, not"):
            unpack_tensors(broken, manifest)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"7", b"{}", b"\xff\xfe", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_manifest_is_damaged(content: bytes) -> None:
    """Whatever lies under the manifest's name, the reader says so and goes on."""
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        unpack_manifest(content, 3)


def test_newer_format_is_not_read() -> None:
    """A manifest of a later version of this program is named as such, though its hash is right."""
    newer = manifest_of(b"").replace(f'"format": {FORMAT}'.encode(), b'"format": 99')
    resealed = _seal(newer[: newer.rindex(b'"blake2b": "') + len(b'"blake2b": "')])
    with pytest.raises(DamagedError, match="format 99, and this version reads formats up to"):
        unpack_manifest(resealed, 3)


def test_manifest_of_another_step_is_damaged() -> None:
    """A folder that was renamed by hand doesn't pass as another step."""
    with pytest.raises(DamagedError, match="its manifest is of step 3"):
        unpack_manifest(manifest_of(b""), 4)

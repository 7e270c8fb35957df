"""The two files of a checkpoint: values to bytes and back, each byte under a hash, no pickle.

`state.safetensors` holds the tensors, `manifest.json` the rest, with size and BLAKE2b of the state; its last entry is
the BLAKE2b of its own bytes before that entry. So any flipped bit and any truncation of either file is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

STATE = "state.safetensors"
MANIFEST = "manifest.json"
FORMAT = 1
"""Version of what is written here; a newer one is never read."""
_END = b'"}\n'
_TAIL = 2 * hashlib.blake2b(digest_size=32).digest_size + len(_END)


class DamagedError(Exception):
    """A checkpoint isn't what was saved; the message is the reason. Never leaves the store."""


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says."""

    step: int
    score: float
    sequence: int
    """Counts the saves of a run, which may go back and save an earlier step after a later one."""
    meta: dict[str, Any]
    state_size: int
    """Bytes of state.safetensors."""
    state_hash: str
    """BLAKE2b of 32 bytes, in hex."""


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of state.safetensors; any strides, tensors that share memory too."""
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        # safetensors refuses other strides and shared memory; anything else goes in without a copy.
        copied = not tensor.is_contiguous() or storage in storages
        plain[name] = tensor.detach().clone(memory_format=torch.contiguous_format) if copied else tensor.detach()
        storages.add(storage)
    return bytes(safetensors.torch.save(plain))


def pack_manifest(step: int, score: float, sequence: int, meta: str, state: bytes) -> bytes:
    """The bytes of manifest.json; `meta` is JSON already."""
    head = {
        "format": FORMAT,
        "step": step,
        "score": score,
        "sequence": sequence,
        "files": {STATE: {"size": len(state), "blake2b": _hash(state)}},
    }
    return _seal(f'{json.dumps(head)[:-1]}, "meta": {meta}, "blake2b": "'.encode())


def unpack_manifest(content: bytes, step: int) -> Manifest:
    """Check the manifest of the folder of `step`; raises DamagedError."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedError(f"{MANIFEST} is no JSON") from None
    if _seal(content[:-_TAIL]) != content:
        raise DamagedError(f"the hash of {MANIFEST} is wrong")
    if values["format"] > FORMAT:
        raise DamagedError(f"it has format {values['format']}, and this version reads formats up to {FORMAT}")
    if values["step"] != step:
        raise DamagedError(f"its manifest is of step {values['step']}")
    state = values["files"][STATE]
    return Manifest(
        step, values["score"], values["sequence"], values["meta"], int(state["size"]), str(state["blake2b"])
    )


def unpack_tensors(content: bytes, manifest: Manifest) -> dict[str, Tensor]:
    """Check the state against its manifest, and load it; raises DamagedError."""
    if len(content) != manifest.state_size:
        raise DamagedError(f"{STATE} has {len(content)} bytes, not {manifest.state_size}")
    if _hash(content) != manifest.state_hash:
        raise DamagedError(f"the hash of {STATE} is wrong")
    return safetensors.torch.load(content)


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _seal(body: bytes) -> bytes:
    return body + _hash(body).encode() + _END

"""What a sweep wants of an installation."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True)
class Wanted:
    """The places and resources of a sweep; by default those of one that sets nothing."""

    storage: str
    """Folder for results."""
    tracking_uri: str
    """MLflow tracking URI."""
    experiment: str = "epoch14"
    """MLflow experiment of the sweep."""
    checkpoints: str | None = None
    """Folder or s3://bucket/prefix; None: in `storage`."""
    data: tuple[str, ...] = ()
    """Each data.path of the sweep."""
    address: str | None = None
    """A running Ray: HOST:PORT, auto, or the URL of its dashboard; None: one is started here."""
    workers: int = 1
    """Of a trial."""
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    placement: str = "pack"
    cuda: bool = False
    """Whether a trial asks for CUDA by name."""

    @property
    def wants_gpu(self) -> bool:
        """Whether the sweep can't run without a GPU."""
        return self.cuda or self.gpus_per_worker > 0

    def to_json(self) -> str:
        """As `from_json` takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` has written."""
        values = json.loads(text)
        return cls(**{**values, "data": tuple(values["data"])})

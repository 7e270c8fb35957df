"""Every error that epoch14 raises for its users.

    Epoch14Error
    ├── ConfigError          a key of a config, an override or a preset name is wrong     (exit 2)
    ├── DataError            the data set is missing, empty, damaged or too small         (exit 2)
    │   └── DecodeError      an image gives no pixels
    ├── CheckpointError      the place of the checkpoints can't be used                   (exit 2)
    ├── TrackingError        the MLflow server or its store can't be used                 (exit 2)
    ├── ClusterError         a Ray cluster can't be reached or refuses the job            (exit 2)
    ├── LoaderError          the process that decodes beside a training has ended         (exit 1)
    ├── SweepError           the sweep ran and failed                                     (exit 1)
    └── SpikeError           a guarded loop was stopped (trainables/guard)                (exit 1)

Each message is one line: the key, the value, what is allowed, the remedy.
"""

from __future__ import annotations

MAX_SHOWN = 200
"""Characters of a value that a message shows; paths have room."""


class Epoch14Error(ValueError):
    """Base of everything that a user can cause; its message is one line."""

    exit_code = 2


class ConfigError(Epoch14Error):
    """A config key, an override or a preset name is wrong."""


class DataError(Epoch14Error):
    """The data set is missing, empty, damaged or too small for the batch."""


class DecodeError(DataError):
    """The bytes of an image were read, and give no pixels."""


class CheckpointError(Epoch14Error):
    """The place of the checkpoints can't be used."""


class TrackingError(Epoch14Error):
    """The MLflow server or its store can't be used."""


class ClusterError(Epoch14Error):
    """A Ray cluster can't be reached or refuses the job."""


class LoaderError(Epoch14Error):
    """The process that decodes beside a training has ended."""

    exit_code = 1


class SweepError(Epoch14Error):
    """The sweep ran and failed."""

    exit_code = 1


def complaint(key: str, value: object, allowed: str, remedy: str) -> str:
    """One line that names the key, the value, what is allowed and the remedy."""
    shown = repr(value)
    if len(shown) > MAX_SHOWN:
        shown = shown[: MAX_SHOWN - 3] + "..."
    return " ".join(f"{key}: {shown} is not allowed; allowed: {allowed}; remedy: {remedy}".split())


def error_line(message: object) -> str:
    """What a command says of an error, without the end of the line: always one line."""
    return f"epoch14: error: {' '.join(str(message).split())}"

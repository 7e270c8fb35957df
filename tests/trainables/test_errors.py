"""User errors are one line each, and say what to do."""

from __future__ import annotations

import pickle

import pytest

from trainables import errors
from trainables.errors import (
    ClusterError,
    ConfigError,
    DataError,
    Epoch14Error,
    LoaderError,
    SweepError,
    TrackingError,
    complaint,
)

LEAVES = (ConfigError, DataError, TrackingError, ClusterError, LoaderError, SweepError)


def test_complaint_names_key_value_allowed_and_remedy() -> None:
    """The four parts stand in one line, in this order."""
    expected = "optim.lr: -1 is not allowed; allowed: a number above 0; remedy: correct optim.lr"
    assert complaint("optim.lr", -1, "a number above 0", "correct optim.lr") == expected


@pytest.mark.parametrize("value", ["two\nlines", "tab\there", "carriage\rreturn", ["a\nb"], {"k": "a\n\n\nb"}])
def test_complaint_is_one_line_whatever_the_value(value: object) -> None:
    """Line breaks in what a user wrote, or in what a library said, never break the line."""
    message = complaint("key", value, "this\nor that", "do\r\nso")
    assert message.splitlines() == [message]
    assert "\t" not in message


def test_long_values_are_cut() -> None:
    """A whole section pasted into the wrong key shows its beginning; the path of a file is shown to its end."""
    message = complaint("key", "x" * 10_000, "less", "shorten it")
    assert len(message) < 300
    assert "'" + "x" * 196 + "..." in message
    path = "/home/" + "folder/" * 20 + "end"
    assert f"key: '{path}' is not" in complaint("key", path, "less", "shorten it")


@pytest.mark.parametrize("error", LEAVES)
def test_every_error_is_an_epoch14_error_and_a_value_error(error: type[Epoch14Error]) -> None:
    """One `except Epoch14Error` catches whatever a user caused; libraries that expect ValueError see one."""
    assert issubclass(error, Epoch14Error)
    assert issubclass(error, ValueError)


@pytest.mark.parametrize("error", LEAVES)
def test_errors_survive_pickling(error: type[Epoch14Error]) -> None:
    """A worker's error reaches the driver with its class, message and exit code."""
    copy = pickle.loads(pickle.dumps(error("key: 1 is not allowed")))  # noqa: S301 - our own bytes
    assert type(copy) is error
    assert str(copy) == "key: 1 is not allowed"
    assert copy.exit_code == error.exit_code


def test_exit_codes_part_bad_input_from_a_failed_sweep() -> None:
    """2 for what a user can correct before anything ran, 1 for a sweep that ran and failed."""
    assert {error.__name__: error.exit_code for error in LEAVES} == {
        "ConfigError": 2,
        "DataError": 2,
        "TrackingError": 2,
        "ClusterError": 2,
        "LoaderError": 1,
        "SweepError": 1,
    }


def test_docstring_draws_the_whole_tree() -> None:
    """Every class of the module stands in the tree of its docstring."""
    classes = [name for name, thing in vars(errors).items() if isinstance(thing, type)]
    assert classes
    assert all(name in (errors.__doc__ or "") for name in classes)

"""The examples of a guard run, and show that it is little to add."""

from __future__ import annotations

import inspect
import re

import pytest

from pipelines.examples import plain_loop

GUARD = re.compile(r"guard|event", re.IGNORECASE)


def test_plain_loop_is_healed(capsys: pytest.CaptureFixture[str]) -> None:
    """The plain loop's jump of the rate is named, undone, and training ends well."""
    (event,) = plain_loop.main()
    assert event.cause == "lr_jump"
    assert event.action == "rolled_back"
    share = re.search(r"([\d.]+)% of the digits", capsys.readouterr().out)
    assert share
    assert float(share.group(1)) > 95.0


def test_guard_takes_under_ten_lines() -> None:
    """Import, making and calling the guard are fewer than ten lines of the plain loop."""
    code = inspect.getsource(plain_loop).split('"""', 2)[2]
    lines = [line for line in code.splitlines() if GUARD.search(line)]
    assert 3 <= len(lines) < 10, lines


# Lightning warns of loaders without workers, of the trees that torch has renamed, and of folders.
@pytest.mark.filterwarnings("ignore")
def test_lightning_loop_names_the_batches() -> None:
    """In Lightning's loop the batches with wrong labels are named, and the run is stopped."""
    pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    from pipelines.examples import lightning_loop

    (event,) = lightning_loop.main()
    seen = [k for k in lightning_loop.POISONED if k <= event.symptom.step]
    assert event.cause == "poisoned_batch"
    assert list(event.batches) == seen
    assert event.controls is not None
    assert event.controls.first_difference is None

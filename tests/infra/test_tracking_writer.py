"""A store that fails, for a while or for good, and records that it never takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow.exceptions import MlflowException

from infra.tracking_kept import main as write_kept
from infra.tracking_records import Record, Report, SweepEnd, SweepStart, TrialEnd, TrialStart, from_json, to_json
from infra.tracking_writer import TrackingWriter

if TYPE_CHECKING:
    from tests.infra.conftest import MlflowServer, Store


@dataclass
class Shelf:
    """A recorder that fails as it is told, which no real server can be made to do: trial id -> error, each time."""

    failures: dict[str, Exception] = field(default_factory=dict)
    written: list[Record] = field(default_factory=list)
    parent_run_id: str | None = "run"

    def apply(self, record: Record) -> None:
        """Keep it, or fail."""
        error = self.failures.get(getattr(record, "trial_id", ""))
        if error is not None:
            raise error
        self.written.append(record)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the waiting."""
    monkeypatch.setattr("infra.tracking_writer.FIRST_DELAY_S", 0.001)
    monkeypatch.setattr("infra.tracking_writer.FAILING_PATIENCE_S", 0.2)


ENDS = [TrialEnd(name, "FINISHED") for name in ("first", "second", "third")]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("error", "works", "written", "left"),
    [
        (ValueError("a bug of ours"), True, ["first", "third"], ["second"]),
        (MlflowException("no such run", error_code=1004), True, ["first", "third"], ["second"]),
        (MlflowException("it breaks on this one"), True, ["first", "third"], ["second"]),
        (ConnectionError("away"), False, ["first"], ["second", "third"]),
    ],
    ids=["bug", "refused", "fails while the store works", "store away"],
)
def test_a_failure_holds_up_only_what_it_must(
    error: Exception, *, works: bool, written: list[str], left: list[str]
) -> None:
    """A record that can't be written is set aside; a store that is away is waited for, in order."""
    shelf = Shelf({"second": error})
    writer = TrackingWriter(lambda: shelf, lambda: works)
    for end in ENDS:
        writer.put(end)
    unwritten = writer.close()

    assert [record.trial_id for record in shelf.written if isinstance(record, TrialEnd)] == written
    assert [item.record for item in unwritten] == [end for end in ENDS if end.trial_id in left]
    assert all(str(error)[:5] in item.reason for item in unwritten)


@pytest.mark.usefixtures("quick")
def test_a_store_that_opens_late_is_waited_for() -> None:
    """A failure to open counts as the store's absence, and the records are written once it opens."""
    shelf = Shelf()
    doors: list[Shelf | Exception] = [shelf, ConnectionError("closed"), ConnectionError("closed")]

    def open_shelf() -> Shelf:
        door = doors.pop()
        if isinstance(door, Exception):
            raise door
        return door

    writer = TrackingWriter(open_shelf, lambda: False)
    for end in ENDS:
        writer.put(end)

    assert writer.close() == []
    assert shelf.written == ENDS


@pytest.mark.parametrize(
    "record",
    [
        SweepStart({"space": {"optim.lr": [0.1]}}, "run"),
        TrialStart("t", "resnet18", {"optim.lr": "0.1"}, "optim.lr=0.1"),
        Report("t", {"step": 1, "history": [{"step": 1, "loss": math.inf}]}, 1, 2),
        TrialEnd("t", "FAILED", "boom"),
        SweepEnd([{"trial_id": "t"}], "FINISHED"),
    ],
)
def test_records_survive_the_file(record: Record) -> None:
    """A line holds all of a record, infinities too."""
    assert from_json(to_json(record)) == record


def test_a_file_that_nobody_kept_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, an empty one and another's are one line each, exit code 2."""
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_text('{"uri": "sqlite:///x.db"}\n{"kind": "Surprise"}\n')

    assert [write_kept([str(tmp_path / name)]) for name in ("missing", "empty", "other")] == [2, 2, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("epoch14: error: FILE: ") for line in lines] == [True] * 3


def test_a_record_of_which_nothing_can_come_is_set_aside(local: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A run that somebody deletes in mid-sweep costs its own records only, and they are kept."""
    sweep = local.sweep()
    tracker = sweep.tracker
    tracker.setup()
    doomed, other = sweep.start("t_00000"), sweep.start("t_00001")
    tracker.on_experiment_end([])
    local.client.delete_run(local.trial("t_00000").info.run_id)
    sweep.report(doomed, 0, 5)
    sweep.report(other, 0, 5)
    note = tracker.finish([])

    assert note is not None
    assert "1 record could not be written" in note
    assert note in caplog.text
    assert len(local.losses(local.trial("t_00001"))) == 5


def test_a_server_that_comes_back_has_everything(
    mortal_server: MlflowServer, mortal_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows reported while the server is away wait, and are written when it answers again; the loop never waits."""
    sweep = mortal_store.sweep()
    tracker = sweep.tracker
    tracker.setup()
    trial = sweep.start()
    sweep.report(trial, 0, 10)
    mortal_server.kill()
    for start in range(10, 50, 10):
        sweep.report(trial, start, start + 10)
    sweep.complete(trial)
    mortal_server.start()
    assert tracker.finish([]) is None

    assert [step for step, _ in mortal_store.losses(mortal_store.trial())] == list(range(50))
    assert [run.info.status for run in mortal_store.runs()] == ["FINISHED", "KILLED"]
    warnings = [entry.message for entry in caplog.records if entry.name == "epoch14.tracking"]
    assert [message.partition(":")[2][:17] for message in warnings] == [" the store fails;", " the store takes "]


def test_a_server_that_stays_away_costs_no_record(
    mortal_server: MlflowServer,
    mortal_store: Store,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What could not be written is said, kept beside the storage, and can be written later, twice if need be."""
    monkeypatch.setattr("infra.tracking_writer.FAILING_PATIENCE_S", 2.0)
    sweep = mortal_store.sweep()
    tracker = sweep.tracker
    tracker.setup()
    trial = sweep.start()
    sweep.report(trial, 0, 10)
    tracker.on_experiment_end([])
    mortal_server.kill()
    sweep.report(trial, 10, 20, lambda _: math.nan)
    sweep.complete(trial)
    note = tracker.finish([])

    (file,) = mortal_store.storage.glob("unwritten-first-light-*.jsonl")
    assert note is not None
    assert note.startswith(f"3 records could not be written to {mortal_server.uri}")
    assert note.endswith(f"remedy: python -m infra.tracking_kept {file}")

    assert write_kept([str(file)]) == 2
    assert "tracking.uri" in capsys.readouterr().err
    mortal_server.start()
    assert [write_kept([str(file)]) for _ in range(2)] == [0, 0]
    assert [step for step, _ in mortal_store.losses(mortal_store.trial())] == list(range(20))
    assert [run.info.status for run in mortal_store.runs()] == ["FINISHED", "KILLED"]

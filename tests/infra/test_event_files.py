"""TensorBoard's event files as their writers leave them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboardX import FileWriter, SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

from infra.event_files import event_files, read_event_files
from trainables.errors import DataError
from trainables.runlog.runs import RunLog, runs_of


def write(folder: Path, losses: list[float], tag: str = "train/loss", start: int = 0) -> Path:
    """Event files with these losses; returns the newest."""
    # Two writers of one second would otherwise take the same name.
    writer = SummaryWriter(str(folder), filename_suffix=f".{start}")
    for step, loss in enumerate(losses, start):
        writer.add_scalar(tag, loss, step)
    writer.add_text("notes", "no number")
    writer.close()
    return event_files(folder)[-1]


def runs(path: Path) -> list[RunLog]:
    """The runs in a folder."""
    return runs_of(read_event_files(path), {}, path.name)


def test_each_folder_is_a_run(tmp_path: Path) -> None:
    """Several folders are several runs, named by their place; nan and inf are kept, text is left out."""
    write(tmp_path / "a", [2.0, math.nan, 1.0])
    write(tmp_path / "deep" / "b", [3.0, math.inf])
    first, second = runs(tmp_path)
    assert (first.name, second.name) == ("a", "deep/b")
    assert first.points["loss"].steps.tolist() == [0, 1, 2]
    assert [f"{value:g}" for value in first.points["loss"].values] == ["2", "nan", "1"]
    assert second.points["loss"].values.tolist() == [3.0, math.inf]


def test_a_folder_itself_and_a_file_are_runs(tmp_path: Path) -> None:
    """A run in the folder that is named has the folder's name; so has one event file of it."""
    file = write(tmp_path / "run7", [2.0, 1.0])
    for path in (tmp_path / "run7", file):
        (log,) = runs(path)
        assert log.name == "run7"
        assert log.points["loss"].values.tolist() == [2.0, 1.0]


def test_train_and_validation_side_by_side_are_one_run(tmp_path: Path) -> None:
    """Keras writes `train` and `validation` with the same tag: the loss of one, the evaluations of the other."""
    write(tmp_path / "k" / "train", [2.0, 1.0], "epoch_loss")
    write(tmp_path / "k" / "validation", [3.0, 2.5], "epoch_loss")
    (log,) = runs(tmp_path)
    assert log.name == "k"
    assert log.points["loss"].values.tolist() == [2.0, 1.0]
    assert log.points["val_loss"].values.tolist() == [3.0, 2.5]


def test_a_resumed_run_has_two_files(tmp_path: Path) -> None:
    """Files of one folder are one run in the order of their wall times; where the step goes back it was resumed."""
    write(tmp_path / "r", [float(step) for step in range(60)])
    write(tmp_path / "r", [9.0] * 40, start=40)
    assert len(event_files(tmp_path)) == 2
    (log,) = runs(tmp_path)
    points = log.points["loss"]
    assert points.steps[: points.starts[1]].tolist() == list(range(60))
    assert points.steps[points.starts[1] :].tolist() == list(range(40, 80))


@pytest.mark.parametrize("packed", [True, False])
def test_scalars_of_the_second_format_are_tensors(tmp_path: Path, *, packed: bool) -> None:
    """TensorFlow 2 writes a scalar as a tensor, its bytes packed or not."""
    import struct

    number = {"tensor_content": struct.pack("<f", 1.5)} if packed else {"float_val": [1.5]}
    tensor = TensorProto(dtype=1, tensor_shape=TensorShapeProto(), **number)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    writer = FileWriter(str(tmp_path))
    writer.add_summary(Summary(value=[Summary.Value(tag="loss", tensor=tensor, metadata=metadata)]), 3)
    writer.close()
    (log,) = runs(tmp_path)
    assert (log.points["loss"].steps.tolist(), log.points["loss"].values.tolist()) == ([3], [1.5])


def test_a_file_that_is_still_written_ends_early(tmp_path: Path) -> None:
    """Cut anywhere in its last records, a file gives the whole ones before."""
    file = write(tmp_path, [2.0, 1.0, 0.5])
    content = file.read_bytes()
    seen = set()
    for cut in range(len(content) - 160, len(content)):
        file.write_bytes(content[:cut])
        (log,) = runs(tmp_path)
        seen.add(len(log.points["loss"].steps))
    assert seen <= {1, 2, 3}
    assert len(seen) > 1


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A wrong length is an error of one line rather than nonsense."""
    file = write(tmp_path, [2.0, 1.0])
    content = bytearray(file.read_bytes())
    content[3] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged before byte 12") as caught:
        read_event_files(tmp_path)
    assert file.name in str(caught.value)

"""A whole trial whose images come from threads, from the step itself, or from a process: the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
import torch.distributed as dist

from trainables.build import with_loader
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex
from trainables.errors import DataError
from trainables.recipe import Recipe
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.conftest import TinyImages
    from tests.trainables.conftest import RunRanks, RunTrial, Tiny

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="the process shares memory files of Linux")
CHANGES: dict[str, Any] = {
    "max_steps": 6,
    "eval_every": 3,
    "checkpoint": {"every": 2},
    "faults": [{"use": "trainables.faults:black_images", "start_step": 3, "params": {"share": 0.3}}],
}
"""A fault wraps the decode of the last steps, and sides grow."""
DATA: dict[str, Any] = {"augment": "crop_flip", "start_size": 8, "grow_steps": [1, 4], "size_multiple": 4}
WAYS: tuple[dict[str, Any], ...] = (
    {"loader": "threads"},
    {"loader_threads": 0},
    {"loader": "process", "loader_threads": 2},
)


def children() -> set[int]:
    """Processes that this one has started and that run."""
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


def history(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of single steps."""
    return [step for row in rows for step in row["history"]]


@pytest.mark.parametrize(
    ("loader", "device", "threads", "beside"),
    [
        ("auto", "cpu", 2, False),
        ("auto", "cuda", 2, True),
        ("auto", "cuda", 0, False),
        ("threads", "cuda", 2, False),
        ("process", "cpu", 0, True),
    ],
)
def test_a_process_is_there_where_it_is_asked_for(
    loader: str, device: str, threads: int, *, beside: bool, tiny: Tiny, digits_index: ImageIndex
) -> None:
    """By default beside a GPU, if there are threads at all; nothing starts before the first batch."""
    before = children()
    recipe = Recipe.build(tiny(data={"loader": loader, "loader_threads": threads}), digits_index)
    found, helper = with_loader(recipe, torch.device(device))
    assert (helper is not None) == beside
    assert (found.train.helper is not None) == (found.val.helper is not None) == beside
    assert replace(found.train, helper=None).split is recipe.train.split
    assert children() == before


def test_a_trial_is_the_same_to_the_last_bit(
    run: RunTrial, tiny: Tiny, tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By threads, in the step, by a process, and by a process after an interruption; none is left behind."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    before = children()
    threads, in_step, process = (tiny(**CHANGES, data={**DATA, **way}) for way in WAYS)
    expected = run(threads).history
    assert [step["step"] for step in expected] == list(range(6))
    assert run(in_step).history == expected
    assert run(process).history == expected
    rows: list[dict[str, Any]] = []
    assert run_trial(threads, rows.append, checkpoints=str(tmp_path), stop_after=3).phase == "interrupted"
    assert run_trial(process, rows.append, checkpoints=str(tmp_path)).phase == "finished"
    assert history(rows) == expected
    assert children() == before


def test_an_error_of_the_process_ends_the_trial_as_one_of_a_thread(
    run: RunTrial, tiny: Tiny, tiny_images: TinyImages
) -> None:
    """What is quarantined is in the trial's last row, and beyond the limit the line is the same."""
    folder = tiny_images(train=8, val=4)
    damaged = [folder / "train" / "cat" / "003.png", folder / "val" / "dog" / "001.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    data = {"path": str(folder), "max_quarantined": 2, "loader": "process"}
    assert run(tiny(max_steps=4, data=data)).rows[-1]["quarantined"] == [str(path) for path in damaged]
    before = children()
    with pytest.raises(DataError, match=r"^data\.max_quarantined: 0 is not allowed; .*003\.png"):
        run(tiny(max_steps=4, data={**data, "max_quarantined": 0}))
    assert children() == before


def one_of_two(rank: int, folder: str, configs: list[TrialConfig]) -> None:
    """A rank of two, which runs each config; it leaves the steps, and how many processes it started, in `folder`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = []
    for config in configs:
        rows: list[dict[str, Any]] = []
        most = 0

        def report(row: dict[str, Any], rows: list[dict[str, Any]] = rows) -> None:
            nonlocal most
            rows.append(row)
            most = max(most, len(children()))

        run_trial(config, report)
        found.append({"history": history(rows), "children": most})
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_each_of_two_ranks_has_a_process_of_its_own(run_ranks: RunRanks, tiny: Tiny, tmp_path: Path) -> None:
    """They train on the same bytes as with threads."""
    ranks = {"max_steps": 4, "eval_every": 2, "report_every": 2}
    configs = [tiny(**ranks, data={**DATA, **way}) for way in (WAYS[0], WAYS[2])]
    run_ranks(one_of_two, 2, str(tmp_path), configs)
    for rank in range(2):
        threads, process = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert process["history"] == threads["history"]
        assert (threads["children"], process["children"]) == (0, 1)

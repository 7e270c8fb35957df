"""A run that was interrupted, however and wherever, and went on is the run that never was, bit for bit."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from trainables.checkpoint import Checkpoint, CheckpointStore
from trainables.config import TrialConfig
from trainables.errors import ConfigError, DataError
from trainables.identity import MAY_CHANGE, flatten
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.conftest import TinyImages
    from tests.trainables.conftest import RunRanks, Tiny

STEPS = 7
# Each kind of state that a step may have; between them every optimizer.
CONFIGS: dict[str, dict[str, Any]] = {
    "sgd, averages, mixup": {
        "data": {"augment": "crop_flip", "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
        "optim": {"ema_decay": 0.9, "nesterov": True},
        "schedule": {"kind": "cosine_warmup", "warmup_steps": 3},
    },
    # Not 8 px: the gradient of a filter over a single pixel holds memory that nobody wrote (oneDNN, AMD, bf16).
    "adamw, bf16": {
        "data": {"image_size": 16},
        "optim": {"kind": "adamw", "lr": 0.001},
        "precision": {"amp": "bf16"},
    },
    "lars, batch renorm, growing images": {
        "data": {"image_size": 16, "start_size": 8, "grow_steps": [2, 5], "size_multiple": 4},
        "model": {"norm": "batch_renorm"},
        "optim": {"kind": "lars", "lr": 1.0},
    },
    "lamb, fp16": {
        "data": {"image_size": 8},
        "optim": {"kind": "lamb", "lr": 0.01},
        "precision": {"amp": "fp16"},
    },
}
PLAIN: dict[str, Any] = {"schedule": {"kind": "cosine"}, "data": {"augment": "crop_flip"}}


def config_of(tiny: Tiny, changes: dict[str, Any], every: int = STEPS, steps: int = STEPS) -> TrialConfig:
    """A few steps with reports and evaluations amid them."""
    return tiny(max_steps=steps, report_every=3, eval_every=4, checkpoint={"every": every}, **changes)


def go(config: TrialConfig, folder: Path, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """`run_trial` with checkpoints in `folder`: its result, and its rows."""
    rows: list[dict[str, Any]] = []
    return run_trial(config, rows.append, checkpoints=str(folder), **options), rows


def history(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of single steps, in the order of reporting."""
    return [step for row in rows for step in row["history"]]


def last(folder: Path) -> Checkpoint:
    """The latest checkpoint there."""
    with CheckpointStore(str(folder), keep=2) as store:
        found = store.latest()
    assert found is not None
    return found


def differing(one: Checkpoint, other: Checkpoint) -> list[str]:
    """Names of the tensors whose bits differ, and of what else differs; configs are left out."""
    assert one.tensors.keys() == other.tensors.keys()
    pairs = {name: (tensor, other.tensors[name]) for name, tensor in one.tensors.items()}
    found = [name for name, (a, b) in pairs.items() if a.dtype != b.dtype or bits(a) != bits(b)]
    # Text, since a nan is no nan.
    return found + [
        key for key in one.meta if key != "config" and json.dumps(one.meta[key]) != json.dumps(other.meta[key])
    ]


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in the order of its indices."""
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).numpy().tobytes()


@pytest.fixture(autouse=True)
def digits(digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the trials find the digits."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))


class Whole:
    """The plain run, never interrupted."""

    def __init__(self, config: TrialConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.result, self.rows = go(config, folder)
        self.last = last(folder)


@pytest.fixture(scope="module")
def whole(tiny: Tiny, digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The plain run with a checkpoint each second step and at its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        return Whole(config_of(tiny, PLAIN, every=2), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def interrupted(whole: Whole, tmp_path: Path) -> Path:
    """The checkpoints of the plain run, interrupted after step 5 was done."""
    result, _ = go(whole.config, tmp_path / "interrupted", stop_after=5)
    assert (result.phase, result.steps) == ("interrupted", 5)
    return tmp_path / "interrupted"


@pytest.mark.parametrize(("name", "stops"), list(zip(CONFIGS, [(1, 3, 4), (5,), (4,), (3,)], strict=True)))
def test_a_run_in_parts_is_the_whole_run(tiny: Tiny, tmp_path: Path, name: str, stops: tuple[int, ...]) -> None:
    """Interrupted before, at and after its reports and evaluations: same weights, state, detector, scores, to the bit.

    The reports of all parts together hold each step once, with the same signals.
    """
    config = config_of(tiny, CONFIGS[name])
    result, rows = go(config, tmp_path / "whole")
    parts: list[dict[str, Any]] = []
    for stop in (*stops, None):
        part, more = go(config, tmp_path / "parts", stop_after=stop)
        assert (part.phase, part.steps) == (("interrupted", stop) if stop else ("finished", STEPS))
        parts += more
    assert differing(last(tmp_path / "parts"), last(tmp_path / "whole")) == []
    assert history(parts) == history(rows)
    assert [step["step"] for step in history(parts)] == list(range(STEPS))
    assert part.best_val_top1 == result.best_val_top1


def test_a_finished_run_stays_finished(whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Run again it takes no step, changes no checkpoint, and ends with the same result."""
    folder = shutil.copytree(whole.folder, tmp_path / "again")
    caplog.set_level(logging.INFO, logger="trainables")
    result, rows = go(whole.config, folder)
    assert result == whole.result
    assert result.phase == "finished"
    assert [(row["phase"], row["step"], row["history"]) for row in rows] == [("finished", STEPS, [])]
    kept = ("loss", "lr", "epoch", "val_top1", "best_val_top1")
    assert [rows[-1][key] for key in kept] == [whole.rows[-1][key] for key in kept]
    assert differing(last(folder), whole.last) == []
    assert f"going on at step {STEPS} from {folder}" in caplog.text


def test_a_damaged_checkpoint_costs_steps_and_no_bit(
    whole: Whole, interrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on from the one before, says so, and ends as if nothing had been."""
    state = interrupted / "step-000000005" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    result, rows = go(whole.config, interrupted)
    assert "the checkpoint of step 5" in caplog.text
    assert [step["step"] for step in history(rows)] == [4, 5, 6]
    assert history(rows) == history(whole.rows)[4:]
    assert result == whole.result
    assert differing(last(interrupted), whole.last) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 3}, "seed: 3 is not allowed; allowed: 0, "),
        ({"global_batch_size": 16}, "global_batch_size: 16 is not allowed; allowed: 8, "),
        ({"optim": {"lr": 0.5}}, "optim.lr: 0.5 is not allowed; allowed: 0.02, "),
        ({"schedule": {"kind": "constant"}}, "schedule.kind: 'constant' is not allowed; allowed: 'cosine', "),
        ({"faults": [{"use": "trainables.faults:black_images"}]}, "faults: [{'use': 'trainables.faults:black_im"),
    ],
)
def test_another_runs_checkpoint_is_refused(tiny: Tiny, whole: Whole, changes: dict[str, Any], expected: str) -> None:
    """One line with the key, both values, where they come from and the remedy; the checkpoints are left as they are."""
    before = sorted(whole.folder.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        go(config_of(tiny, {**PLAIN, **changes}, every=2), whole.folder)
    message = str(caught.value)
    assert message.startswith(expected)
    assert f"as in the checkpoint {whole.folder}; remedy: keep it, or choose another storage" in message
    assert len(message.splitlines()) == 1
    assert sorted(whole.folder.rglob("*")) == before


def test_other_images_are_refused(tiny: Tiny, tiny_images: TinyImages, tmp_path: Path) -> None:
    """The same folder with one image more would be drawn in another order: one line that says so."""
    folder = tiny_images(train=8)
    config = tiny(max_steps=4, global_batch_size=4, checkpoint={"every": 2}, data={"path": str(folder)})
    go(config, tmp_path / "run", stop_after=2)
    shutil.copy(folder / "train" / "cat" / "000.png", folder / "train" / "cat" / "008.png")
    with pytest.raises(DataError) as caught:
        go(config, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith(f"data.path: '{folder}' is not allowed; allowed: the images by name that the checkpoint ")
    assert len(message.splitlines()) == 1


def test_what_may_change_may(tiny: Tiny, whole: Whole, interrupted: Path) -> None:
    """A run goes on with other records, another loader, another detector, another device name: no weight differs."""
    changes = {
        **PLAIN,
        "eval_every": 2,
        "report_every": 1,
        "read_every": 1,
        "device": "auto" if not torch.cuda.is_available() else "cpu",
        "checkpoint": {"every": 3, "keep": 5},
        "detector": {"history": 8, "min_history": 4},
        "diagnosis": {"snapshots": 2},
        "data": {**PLAIN["data"], "loader_threads": 0},
    }
    other = tiny(max_steps=STEPS, **changes)
    result, rows = go(other, interrupted)
    assert (result.phase, result.steps) == ("finished", STEPS)
    assert [step["loss"] for step in history(rows)] == [step["loss"] for step in history(whole.rows)[5:]]
    found = last(interrupted)
    assert found.step == STEPS
    assert [name for name in differing(found, whole.last) if "/" in name] == []


def test_the_keys_that_may_change_exist(tiny: Tiny) -> None:
    """A renamed key can't slip out of the list."""
    keys = flatten(tiny().model_dump(mode="json"))
    assert all(any(key == free or key.startswith(f"{free}.") for key in keys) for free in MAY_CHANGE)


def test_a_symptom_after_a_resume_is_diagnosed_alike(tiny: Tiny, tmp_path: Path) -> None:
    """Replays from the checkpoint's state: the same event, the same cause, and an exact replay with the run's bits."""
    ill: dict[str, Any] = {
        "faults": [{"use": "trainables.faults:non_finite_input", "start_step": 5, "stop_step": 6}],
        "diagnosis": {"replicates": 1, "horizon": 1},
        "data": {"image_size": 8},
        "optim": {"lr": 0.002},
    }
    expected, _ = go(config_of(tiny, {**ill, "diagnosis": {"enabled": False}}), tmp_path / "whole")
    config = config_of(tiny, ill)
    go(config, tmp_path / "parts", stop_after=2)
    result, rows = go(config, tmp_path / "parts")
    assert (result.phase, rows[-1]["phase"], result.steps) == ("stopped", "stopped", expected.steps)
    assert str(asdict(result.symptom)) == str(asdict(expected.symptom))
    assert result.diagnosis.cause == "non_finite_input"
    assert result.diagnosis.controls.exact_bits_equal
    assert result.diagnosis.controls.snapshot_step == 2


# Imports are paid once; each part of a run is a fork, which may be killed.
PARTS = """
import json, os, signal, sys, traceback
import infra.notice
from trainables.config import TrialConfig
from trainables.trial import run_trial

def part(config, folder, at, number):
    infra.notice.listen()
    asked, rows = iter(range(10**6)), []
    def notice():
        if next(asked) == at:
            os.kill(os.getpid(), number)
        return infra.notice.told_to_stop()
    result = run_trial(config, rows.append, checkpoints=folder, notice=notice)
    history = [step for row in rows for step in row["history"]]
    print(json.dumps([result.phase, result.steps, history]), flush=True)

config = TrialConfig.parse(json.loads(sys.argv[1]))
for folder, at, name in json.loads(sys.argv[2]):
    child = os.fork()
    if child == 0:
        try:
            part(config, folder, at, signal.Signals[name])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        print(json.dumps(["killed", None, []]), flush=True)
"""


def in_parts(config: TrialConfig, parts: list[tuple[Path, int, str]]) -> list[Any]:
    """Phase, steps and history of each part: a process that sends itself a signal before its step number so-and-so."""
    plan = json.dumps([(str(folder), at, name) for folder, at, name in parts])
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", PARTS, config.model_dump_json(), plan]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(parts), done.stderr
    return lines


NEVER = 10**6


def test_signals_change_no_bit(whole: Whole, tmp_path: Path) -> None:
    """SIGKILL before the first checkpoint, and after one; SIGTERM, which leaves a checkpoint just there.

    Each run is then gone on with by another process, and ends with the bits of the whole one.
    """
    early, late, told = (tmp_path / name for name in ("early", "late", "told"))
    parts = [
        (early, 1, "SIGKILL"),
        (early, NEVER, "SIGKILL"),
        (late, 5, "SIGKILL"),
        (late, NEVER, "SIGKILL"),
        (told, 2, "SIGTERM"),
        (told, NEVER, "SIGTERM"),
    ]
    found = in_parts(whole.config, parts)
    assert [phase for phase, *_ in found] == [
        *("killed", "finished"),
        *("killed", "finished"),
        *("interrupted", "finished"),
    ]
    for folder in (early, late, told):
        assert differing(last(folder), whole.last) == []
    expected = json.loads(json.dumps(history(whole.rows)))
    assert found[1][2] == expected
    assert found[4][1] == 3
    assert found[4][2] + found[5][2] == expected


def worker(rank: int, folder: str, config: TrialConfig) -> None:
    """One of two ranks: the whole run, and the run in two parts, between which its checkpoints are copied."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    _, rows = go(config, Path(folder) / "whole")
    _, first = go(config, Path(folder) / "two", stop_after=2)
    if rank == 0:
        shutil.copytree(f"{folder}/two", f"{folder}/one")
    result, more = go(config, Path(folder) / "two")
    found = {"phase": result.phase, "whole": history(rows), "parts": history(first + more)}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_ranks_may_change(tiny: Tiny, tmp_path: Path, run_ranks: RunRanks) -> None:
    """Two ranks resumed by two have the bits of two that never stopped; resumed by one it sees the same images."""
    changes = {"data": {"augment": "crop_flip"}, "optim": {"ema_decay": 0.9}}
    config = config_of(tiny, changes, every=4, steps=4)
    run_ranks(worker, 2, str(tmp_path), config)
    both = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert both[0] == both[1]
    assert both[0]["phase"] == "finished"
    assert both[0]["parts"] == both[0]["whole"]
    assert differing(last(tmp_path / "two"), last(tmp_path / "whole")) == []
    result, rows = go(config, tmp_path / "one")
    assert (result.phase, result.steps) == ("finished", 4)
    assert [step["step"] for step in history(rows)] == [2, 3]
    for mine, theirs in zip(history(rows), both[0]["whole"][2:], strict=True):
        # Channel moments are those of the very images: other samples, or another augmentation, have others.
        moments = [key for key in mine if key.startswith("input_")]
        assert [mine[key] for key in moments] == pytest.approx([theirs[key] for key in moments], rel=1e-12)

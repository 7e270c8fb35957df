"""A diagnosis is repeated from its bundle in another process; what is not the same is told."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trainables.bundle import read_bundle
from trainables.bundle_replay import differences, replay_bundle
from trainables.errors import DataError
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.conftest import TinyImages
    from tests.trainables.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tiny: Tiny, digits_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run into which NaN comes."""
    root = tmp_path_factory.mktemp("bundles")
    fault = {"use": "trainables.faults:non_finite_input", "start_step": 14}
    diagnosis = {"replicates": 1, "horizon": 2, "bundle": str(root)}
    config = tiny(max_steps=20, optim={"lr": 0.005}, diagnosis=diagnosis, faults=[fault])
    rows: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        run_trial(config, rows.append)
    (folder,) = root.iterdir()
    assert read_bundle(folder).meta["diagnosis"] == rows[-1]["diagnosis"]
    return folder


def test_a_fresh_process_repeats_the_diagnosis(bundle: Path, digits_cache: Path) -> None:
    """Same cause, same answers: exit code 0, and the table is printed."""
    environment = {**os.environ, "EPOCH14_CACHE": str(digits_cache)}
    command = [sys.executable, "-m", "pipelines", "replay", str(bundle)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert str(read_bundle(bundle).meta["diagnosis"]["cause"]) in done.stdout


def test_a_replay_has_the_recorded_bits(bundle: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same machine severities are equal too; a diagnosis with another cause or answer differs."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    content = read_bundle(bundle)
    again = replay_bundle(content, progress=lambda label: None)
    recorded = content.meta["diagnosis"]
    assert again.controls.exact_bits_equal
    assert again.to_dict()["table"] == recorded["table"]
    assert differences(recorded, again) == []
    assert len(differences(recorded, replace(again, cause="metric_bug"))) == 1
    assert len(differences(recorded, replace(again, table=again.table[:-1]))) == 1


def test_other_images_are_refused_first(bundle: Path, tiny_images: TinyImages) -> None:
    """The message names the place and both checksums; nothing is replayed."""
    labels: list[str] = []
    with pytest.raises(DataError, match=r"^data\.path: .*checksum .*--data$"):
        replay_bundle(read_bundle(bundle), str(tiny_images(train=8, val=4)), labels.append)
    assert labels == []


def test_an_eval_gap_is_repeated_from_the_state_that_was_evaluated(
    tiny: Tiny, digits_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the ids of val/, and with the earlier state that proves a momentum: the same cause, table and bits."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    slow = {"use": "trainables.faults:batch_norm_momentum", "params": {"momentum": 0.002}}
    config = tiny(
        max_steps=60,
        global_batch_size=32,
        eval_every=60,
        optim={"lr": 0.05},
        schedule={"kind": "cosine_warmup", "warmup_steps": 5},
        detector={"history": 16, "min_history": 12},
        diagnosis={"replicates": 1, "bundle": str(tmp_path)},
        faults=[slow],
    )
    result = run_trial(config, lambda row: None)
    assert result.diagnosis is not None
    assert result.diagnosis.cause == "bn_momentum"
    content = read_bundle(tmp_path)
    assert content.snapshot.step == 60
    assert content.earlier is not None
    assert set(content.meta["sample_ids"]) == {"val"}
    again = replay_bundle(content, progress=lambda label: None)
    assert differences(content.meta["diagnosis"], again) == []
    assert again.to_dict()["table"] == content.meta["diagnosis"]["table"]
    assert (again.summary, again.remedy) == (result.diagnosis.summary, result.diagnosis.remedy)


@pytest.mark.parametrize("name", ["manifest.json", "state.safetensors"])
def test_a_damaged_bundle_is_one_line(bundle: Path, tmp_path: Path, name: str) -> None:
    """A flipped bit, or a file that is missing, is found before anything is replayed."""
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"^BUNDLE: "):
        read_bundle(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"^BUNDLE: "):
        read_bundle(tmp_path)

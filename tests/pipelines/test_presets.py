"""Presets: what their head comments say, that ImageNet's are the published recipes, and that each really runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from infra.space import probe_points, trial_config
from pipelines.config import PRESETS, SweepConfig, find_preset, preset_names
from trainables.config import TrialConfig
from trainables.optim import peak_learning_rate
from trainables.schedules import build_schedule
from trainables.trial import run_trial

IMAGES = 1_281_167
DIGITS = 1500
"""Images of train/, of ImageNet and of the digits."""


class Published(NamedTuple):
    """What the source of a preset states."""

    batch: int
    epochs: int
    peak: float
    """Learning rate."""
    top1: str
    """As the head comment writes it, in percent."""


PUBLISHED = {
    "imagenet_90ep": Published(256, 90, 0.1, "76.130"),
    "imagenet_16ep": Published(4096, 16, 1.7, "73.8"),
    "imagenet_24ep": Published(4096, 24, 1.7, "75.6"),
    "imagenet_32ep": Published(4096, 32, 1.7, "76.6"),
    "imagenet_40ep": Published(4096, 40, 1.7, "77.2"),
    "imagenet_56ep": Published(4096, 56, 1.7, "78.0"),
    "imagenet_88ep": Published(4096, 88, 1.7, "78.4"),
    "imagenet_lars": Published(8192, 44, 17.0, "75.9"),
    "imagenet_a3": Published(2048, 100, 0.008, "78.1"),
}
GROWING = {
    "imagenet_16ep": (11, 13),
    "imagenet_24ep": (17, 20),
    "imagenet_32ep": (23, 27),
    "imagenet_40ep": (29, 34),
    "imagenet_56ep": (41, 48),
    "imagenet_88ep": (65, 76),
}
"""First and last epoch of the growth, as published."""
SHRUNK = (
    "data.path=digits",
    f"data.train_samples={DIGITS}",
    "data.image_size=32",
    "data.eval_size=32",
    "data.loader_threads=0",
    "global_batch_size=16",
    "model.width=0.5",
    "eval_every=2",
    "report_every=1",
    "threads=1",
    "device=cpu",
    # A CPU without bfloat16 units takes ten times as long under autocast.
    "precision.amp=fp32",
    "resources.workers=1",
)
"""What makes a preset small enough for this machine; lengths stay in epochs, and everything else as it is."""


def only_trial(name: str, *overrides: str) -> TrialConfig:
    """The one trial of a preset."""
    config = SweepConfig.load(name, overrides)
    assert config.num_trials == 1
    return TrialConfig.parse(config.trial)


def steps(epochs: int, batch: int, images: int = IMAGES) -> int:
    """Steps of so many epochs, the last one begun counting as whole."""
    return math.ceil(epochs * images / batch)


def head_comment(path: Path) -> dict[str, str]:
    """Keyword -> text of a file's head comment; what goes on in the next line belongs to it."""
    entries: dict[str, str] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        word, text = line[1:13].strip(), line[13:].strip()
        if line.startswith("# ") and word in ("command", "hardware", "time", "expect"):
            key = word
            entries[key] = text
        elif key and not word:
            entries[key] += f" {text}"
    return entries


@pytest.mark.parametrize("name", preset_names())
def test_head_comment(name: str) -> None:
    """Every preset says by which command, on what, in what time and with what result it runs."""
    entries = head_comment(find_preset(name))
    assert list(entries) == ["command", "hardware", "time", "expect"]
    assert all(entries.values())
    assert f" {name}" in entries["command"]


@pytest.mark.parametrize("name", preset_names())
def test_every_trial_parses(name: str) -> None:
    """Every preset resolves, and so does each trial that stands for its space."""
    config = SweepConfig.load(name)
    assert [trial_config(config.trial, point) for point in probe_points(config.axes)]


def test_every_imagenet_preset_is_checked() -> None:
    """The table below the imports has each of them."""
    assert sorted(PUBLISHED) == sorted(path.stem for path in PRESETS.glob("imagenet_*.yaml"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_imagenet_preset_is_the_published_recipe(name: str) -> None:
    """One trial with the batch, the epochs, the rate and the accuracy that its source states."""
    batch, epochs, peak, top1 = PUBLISHED[name]
    trial = only_trial(name)
    rate_at = build_schedule(trial.schedule, peak_learning_rate(trial.optim, batch), trial.max_steps)
    rates = [rate_at(step) for step in range(0, trial.max_steps, 7)]
    assert (trial.global_batch_size, trial.max_steps) == (batch, steps(epochs, batch))
    assert (trial.eval_every, trial.checkpoint.every) == (steps(1, batch), steps(1, batch))
    assert max(rates) == pytest.approx(peak, rel=0.01)
    assert rates[-1] <= peak / 90
    assert head_comment(find_preset(name))["expect"].startswith(f"{top1} % top-1")


@pytest.mark.parametrize("name", GROWING)
def test_ffcv_presets_follow_their_source(name: str) -> None:
    """The rate of each step is FFCV's to within the change of one step, and the side grows in the same epochs."""
    batch, epochs, peak, _ = PUBLISHED[name]
    trial = only_trial(name)
    rate_at = build_schedule(trial.schedule, peak_learning_rate(trial.optim, batch), trial.max_steps)
    # get_cyclic_lr of its train_imagenet.py, with lr_peak_epoch 2.
    expected = np.interp(np.arange(trial.max_steps) * batch / IMAGES, (0, 2, epochs), (1e-4 * peak, peak, 0.0))
    actual = np.array([rate_at(step) for step in range(trial.max_steps)])
    first, last = GROWING[name]
    assert np.abs(actual - expected).max() < 1.1 * peak / steps(2, batch)
    assert (trial.data.start_size, trial.data.image_size, trial.data.eval_size) == (160, 192, 256)
    assert trial.data.grow_steps == (steps(first, batch), steps(last, batch))


@pytest.mark.parametrize("name", PUBLISHED)
def test_imagenet_preset_fits_one_gpu(name: str) -> None:
    """The command for one GPU resolves, and trains the same trial."""
    config = SweepConfig.load(name, ["resources.workers=1", "data.path=elsewhere"])
    one = TrialConfig.parse(config.trial)
    assert (config.resources.workers, config.resources.gpus_per_worker) == (1, 1)
    assert one.model_copy(update={"data": only_trial(name).data}) == only_trial(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_imagenet_preset_takes_its_first_steps(name: str, digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs on the digits with its lengths in epochs of these, trains on finite losses and evaluates."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    overrides = [*SHRUNK]
    if name != "imagenet_90ep":
        overrides.append("model.name=resnet18")
    if name in GROWING:
        overrides += ["data.start_size=16", "data.size_multiple=16"]
    trial = only_trial(name, *overrides)
    rows: list[dict[str, Any]] = []
    result = run_trial(trial, rows.append, stop_after=3)
    losses = [step["loss"] for row in rows for step in row["history"]]
    assert (trial.max_steps, trial.checkpoint.every) == (
        steps(PUBLISHED[name].epochs, 16, DIGITS),
        steps(1, 16, DIGITS),
    )
    assert (result.steps, result.symptom) == (3, None)
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert [step["step"] for row in rows for step in row["history"] if "val_top1" in step] == [1]

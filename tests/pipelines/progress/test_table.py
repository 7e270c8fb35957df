"""The table of a sweep's trials: what is in it, and that it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from infra.ray_events import TrialOutcome, TrialStatus
from pipelines.progress.state import LossCurve, SweepState
from pipelines.progress.table import chosen, render, short_names


class Sweep:
    """Trials over learning rates, whose clock goes on by a second an event."""

    def __init__(self, total: int, **devices: Any) -> None:
        self.now = 0.0
        name = "resnet50 bn b256 cosine_warmup lr{}".format
        self.state = SweepState(
            total, steps=lambda _: 100, name=lambda point: name(point["lr"]), clock=lambda: self.now, **devices
        )

    def start(self, number: int) -> None:
        """A trial begins."""
        self.now += 1
        self.state.started(_outcome(number, {}))

    def report(self, number: int, step: int, phase: str = "training", **row: Any) -> None:
        """It trains."""
        self.now += 1
        losses = [2.0 / (1 + k) for k in range(step)]
        self.state.reported(_outcome(number, {"phase": phase, "step": step, "images_per_s": 50.0, **row}), losses)

    def end(self, number: int, status: TrialStatus, **row: Any) -> None:
        """It ends."""
        self.now += 1
        self.state.ended(_outcome(number, row, status))

    def lines(self, width: int, height: int = 24) -> list[str]:
        """What is shown."""
        console = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
        with console.capture() as shown:
            console.print(render(self.state, width, height))
        return [line.rstrip() for line in shown.get().splitlines()]


def _outcome(number: int, row: Mapping[str, Any], status: TrialStatus = "interrupted") -> TrialOutcome:
    return TrialOutcome(f"trial{number}", {"lr": f"0.{number:03d}"}, status, dict(row))


@pytest.fixture
def three() -> Sweep:
    """Three of four trials: one trains, one diagnoses, one is over."""
    sweep = Sweep(4, devices=(2, "core"))
    for number in (1, 2, 3):
        sweep.start(number)
    sweep.report(1, 40)
    sweep.report(2, 60, "diagnosing", symptom="spike", replay="other rates")
    sweep.end(3, "stopped", step=51, symptom="spike", diagnosis={"cause": "lr_jump"})
    return sweep


def test_wide(three: Sweep) -> None:
    """Each trial has a line with its name, state, step, losses, symptom and cause; the sweep has one below."""
    assert three.lines(120) == [
        "#  trial                                   state         step  loss              symptom  cause",
        "─" * 109,
        "1  resnet50 bn b256 cosine_warmup lr0.001  training    40/100  █▄▂▂▂▁▁▁▁▁▁▁▁▁▁▁",
        "2  resnet50 bn b256 cosine_warmup lr0.002  diagnosing  60/100  █▃▂▂▁▁▁▁▁▁▁▁▁▁▁▁  spike    replay: other rates",
        "3  resnet50 bn b256 cosine_warmup lr0.003  stopped     51/100                    spike    lr_jump",
        "more: 1 waiting",
        "1 of 4 trials over; about 2 s left; 50 images/s; 0.01 core-hours",
    ]


def test_narrow(three: Sweep) -> None:
    """On 60 columns what all trials share is left out of their names, and a symptom is in one column with its cause."""
    assert three.lines(60) == [
        "# trial   state        step loss     symptom: cause",
        "─" * 60,
        "1 lr0.001 training   40/100 █▂▂▁▁▁▁▁",
        "2 lr0.002 diagnosing 60/100 █▂▁▁▁▁▁▁ spike: replay: other r…",
        "3 lr0.003 stopped    51/100          spike: lr_jump",
        "more: 1 waiting",
        "1 of 4 trials over; about 2 s left; 50 images/s; 0.01 core-…",
    ]
    assert all(len(line) <= 40 for line in three.lines(40))


def test_a_thousand_trials() -> None:
    """Those that run are shown, then ill ones and those that ended last; of all others a line says how many."""
    sweep = Sweep(1000)
    for number in range(1, 701):
        sweep.start(number)
        if number % 50 == 0:
            sweep.end(number, "failed")
        elif number <= 696:
            sweep.end(number, "finished", step=100)
    lines = sweep.lines(100, 20)
    assert len(lines) <= 19
    numbers = [int(line.split()[0]) for line in lines[2:-2]]
    assert numbers == [350, 400, 450, 500, 550, 600, 650, 693, 694, 695, 696, 697, 698, 699, 700]
    assert lines[-2] == "more: 679 finished, 300 waiting, 6 failed"
    assert lines[-1].startswith("697 of 1000 trials over; ")


@pytest.mark.parametrize("height", [1, 5, 6, 10])
def test_small_terminals(three: Sweep, height: int) -> None:
    """At least one trial is shown, one that runs."""
    (first, *_) = chosen(three.state, max(height - 5, 1))
    assert first.number in (1, 2)
    assert len(three.lines(80, height)) <= max(height, 5)


def test_one_trial_that_starts() -> None:
    """Before its first report a trial has no losses and the sweep no estimate."""
    sweep = Sweep(1)
    assert sweep.lines(80) == ["more: 1 waiting", "0 of 1 trials over; 0.00 core-hours"]
    sweep.start(1)
    assert sweep.lines(80)[-1] == "0 of 1 trials over; 0.00 core-hours"


def test_resumed_sweep() -> None:
    """Trials of before count as done and with what they used, and make no pace; one that goes on keeps its hours."""
    sweep = Sweep(3, devices=(4, "GPU"))
    sweep.state.known(_outcome(1, {"step": 100, "time_total_s": 3600.0, "phase": "finished"}, "finished"))
    sweep.state.started(_outcome(2, {"step": 50, "time_total_s": 1800.0, "phase": "training"}))
    assert sweep.lines(80)[-1] == "1 of 3 trials over; 6.00 GPU-hours"
    sweep.report(2, 60)
    sweep.now += 10
    sweep.report(2, 70)
    assert sweep.lines(80)[-1] == "1 of 3 trials over; about 2 min left; 50 images/s; 6.01 GPU-hours"


def test_told_to_stop(three: Sweep) -> None:
    """After a Ctrl-C the last line says what a second one does."""
    three.state.stopping = True
    assert three.lines(80)[-1] == "stopping; Ctrl-C again quits at once"


def test_names_from_a_config_draw_nothing() -> None:
    """A name with control characters or markup is text."""
    sweep = Sweep(2)
    sweep.state._name = lambda point: f"[bold]\x1b[2J\n{point['lr']}"
    sweep.start(1)
    assert "[bold]\N{REPLACEMENT CHARACTER}[2J 0.001" in sweep.lines(80)[2]


def test_short_names_tell_trials_apart() -> None:
    """Where all words are common, or there is room, the names stay."""
    assert short_names(["a b", "a c"], 3) == ["a b", "a c"]
    assert short_names(["a b", "a c"], 2) == ["b", "c"]
    assert short_names(["a b", "a b"], 2) == ["a b", "a b"]
    assert short_names(["a b"], 2) == ["a b"]


def test_loss_curve_is_bounded() -> None:
    """However long a trial is, its tallest losses and those that are no numbers stay."""
    curve = LossCurve()
    curve.add(9.0 if step == 70_000 else math.nan if step == 123 else 1.0 for step in range(100_000))
    assert len(curve.values) < 2 * LossCurve.POINTS
    assert max(filter(math.isfinite, curve.values)) == 9
    assert sum(map(math.isnan, curve.values)) == 1

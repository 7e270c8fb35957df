"""A finished log tells all of its events, however it was written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainables.rng import generator
from trainables.timeline import Event, Row, find_symptoms

Log = list[dict[str, float | None]]


def log(count: int = 600, every: int = 1, key: int = 0) -> Log:
    """A run that learns, in the columns that most logs have."""
    losses = 0.5 + 1.8 * np.exp(-np.arange(count) / 15) + generator("timeline", key).normal(0, 0.05, size=count)
    return [{"step": every * k, "loss": float(loss)} for k, loss in enumerate(losses)]


def spiked(*at: int, height: float = 3.0, width: int = 8) -> Log:
    """Spikes that heal after `width` rows."""
    rows = log()
    for start in at:
        for row in rows[start : start + width]:
            row["loss"] = height
    return rows


def short(events: Sequence[Event]) -> list[tuple[str, int, int, bool]]:
    """Kind, first and last step, healed."""
    return [(event.kind, event.step, event.end_step, event.healed) for event in events]


def test_every_event_of_a_log_is_found() -> None:
    """The detector goes on after an event that healed: each has its first and last step."""
    events = find_symptoms(spiked(100, 200, 230, 400), num_classes=10)
    assert short(events) == [("spike", start, start + 7, True) for start in (100, 200, 230, 400)]
    assert all(event.severity >= 6 and event.step + 2 <= event.confirmed_step <= event.step + 3 for event in events)
    assert find_symptoms(log(), num_classes=10) == []


def test_rows_out_of_order_twice_there_or_empty_change_nothing() -> None:
    """Shuffled rows, copies, rows without a loss and columns of None give the events of the tidy log."""
    tidy = spiked(100, 400)
    order = generator("shuffled").permutation(len(tidy))
    messy: list[Row] = [{**tidy[i], "grad_norm": None} for i in order]
    messy += [tidy[5], tidy[300], {"step": 17, "loss": None}, {"step": 601}]
    assert short(find_symptoms(messy, num_classes=10)) == short(find_symptoms(tidy, num_classes=10))


def test_gaps_and_sparse_rows_are_no_events() -> None:
    """A row each 100 steps, and a hole in the log."""
    sparse = [{**row, "step": 100 * float(row["step"] or 0)} for row in spiked(300)]
    del sparse[100:150]
    assert short(find_symptoms(sparse, num_classes=10)) == [("spike", 30_000, 30_700, True)]


def test_what_is_not_finite_is_one_event_until_it_heals() -> None:
    """Three rows of NaN in a row are one event, and poison nothing after it."""
    rows = spiked(300)
    for k in (150, 151, 152):
        rows[k]["loss"] = math.nan
    assert [event[:3] for event in short(find_symptoms(rows))] == [("non_finite", 150, 152), ("spike", 300, 307)]


def test_a_loss_that_settles_elsewhere_is_a_new_baseline() -> None:
    """An event that never heals ends where the loss stands still, and the next one is measured against that."""
    rows = log()
    for row in rows[200:]:
        row["loss"] = float(row["loss"] or 0) + 1.0
    for row in rows[400:408]:
        row["loss"] = 5.0
    events = find_symptoms(rows, num_classes=10)
    assert [(event.step, event.healed) for event in events] == [(200, False), (400, True)]


def test_a_run_that_was_started_anew_is_two_attempts() -> None:
    """Each is judged by itself, from the step that the second went on from."""
    again = [*spiked(300)[:350], *log(key=1)[250:]]
    events = find_symptoms(again, num_classes=10)
    assert [(event.step, event.attempt) for event in events] == [(300, 0)]
    both = find_symptoms([*spiked(300), *spiked(100)], num_classes=10)
    assert [(event.step, event.attempt) for event in both] == [(300, 0), (100, 1)]


def test_evaluations_in_the_log_are_judged() -> None:
    """A gap runs from the first bad evaluation to the last, beside the events of the loss."""
    rows = spiked(450)
    for k in range(100, 600, 50):
        bad = 250 <= k <= 350
        rows[k] |= {"val_loss": 8.0 if bad else 0.6, "val_top1": 0.1 if bad else 0.8}
    events = find_symptoms(rows, num_classes=10)
    assert short(events) == [("eval_gap", 250, 350, True), ("spike", 450, 457, True)]


def test_an_empty_log_has_no_events() -> None:
    """Nothing, one row, and rows without a step."""
    assert find_symptoms([]) == []
    assert find_symptoms([{"step": 0, "loss": 2.3}]) == []
    assert find_symptoms([{"step": None, "loss": 2.3}]) == []

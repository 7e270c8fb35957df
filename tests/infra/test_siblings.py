"""Events of a sweep's trials compared: what convicts the data, what makes it suspect, and what says nothing."""

from __future__ import annotations

from dataclasses import replace

from infra.siblings import TrialEvent, Weight, compare_events

BASE = TrialEvent("a", seed=0, batch_size=32, onset=100, cause="unexplained", num_samples=10_000, schedule="cosine")


def weights(*events: TrialEvent) -> dict[str, str]:
    """Run -> weight of its evidence."""
    return {evidence.run: str(evidence.weight) for evidence in compare_events(events)}


def test_one_position_under_different_schedules_makes_the_data_suspect() -> None:
    """Each cites the other, also where the batches differ: 100 steps of 32 and 50 of 64 are one position."""
    other = replace(BASE, run="b", batch_size=64, onset=50, schedule="constant")
    found = compare_events([BASE, other])
    assert [(evidence.run, evidence.weight, evidence.cites) for evidence in found] == [
        ("a", Weight.SUSPECT, ("b",)),
        ("b", Weight.SUSPECT, ("a",)),
    ]
    assert "position 3200" in found[0].text


def test_one_step_at_two_batches_is_no_position() -> None:
    """The same step of a run with twice the batch has seen other samples."""
    assert weights(BASE, replace(BASE, run="b", batch_size=64, schedule="constant")) == {}


def test_a_shared_milestone_says_nothing_of_the_data() -> None:
    """Neither the same schedule again, nor two schedules that jump there both."""
    assert weights(BASE, replace(BASE, run="b")) == {"a": "milestone", "b": "milestone"}
    jumped = replace(BASE, changed_at=99, schedule="step")
    assert weights(jumped, replace(jumped, run="b", schedule="multi_step")) == {"a": "milestone", "b": "milestone"}


def test_a_jump_of_one_trial_alone_is_no_shared_milestone() -> None:
    """The other one fails there at a steady rate; nor does a jump long before count."""
    steady = replace(BASE, run="b", schedule="constant")
    assert weights(replace(BASE, changed_at=99), steady) == {"a": "suspect", "b": "suspect"}
    assert weights(replace(BASE, changed_at=40), replace(steady, changed_at=40)) == {"a": "suspect", "b": "suspect"}


def test_another_order_at_the_same_position_says_nothing() -> None:
    """It has other samples there."""
    assert weights(BASE, replace(BASE, run="b", seed=1, schedule="constant")) == {}


def test_another_order_that_fails_on_the_same_ids_convicts() -> None:
    """Wherever in its stream that was, and though the two share a milestone."""
    ids = frozenset(range(20))
    one = replace(BASE, sample_ids=ids, changed_at=99)
    other = replace(one, run="b", seed=1, onset=400, sample_ids=frozenset(range(5, 25)))
    found = compare_events([one, other])
    assert [evidence.weight for evidence in found] == [Weight.CONVICTS, Weight.CONVICTS]
    assert "samples 5, 6" in found[0].text


def test_a_few_shared_ids_convict_nobody() -> None:
    """Less than half of them, or no more than two random draws from a small set would share."""
    one, other = replace(BASE, sample_ids=frozenset(range(20))), replace(BASE, run="b", seed=1, onset=700)
    assert weights(one, replace(other, sample_ids=frozenset(range(15, 35)))) == {}
    small = replace(one, num_samples=40)
    assert weights(small, replace(other, num_samples=40, sample_ids=frozenset(range(10, 30)))) == {}
    assert weights(one, other) == {}


def test_an_event_alone_has_no_evidence() -> None:
    """Nor has a trial with itself, at two events of its own."""
    assert weights(BASE, replace(BASE, onset=101)) == {}

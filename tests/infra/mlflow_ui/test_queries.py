"""The queries that the README teaches, against a recorded sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.infra.mlflow_ui.conftest import Recorded

FIRST, SECOND, THIRD, FOURTH = "bn 3.0", "bn 0.1", "gn 3.0", "gn 0.1"
QUERIES = {
    "tags.`epoch14.kind` = 'sweep'": ["None None"],
    "tags.`epoch14.kind` = 'trial' and tags.`epoch14.sweep` = 'first-light'": [FIRST, SECOND, THIRD, FOURTH],
    "tags.`diagnosis.group` = 'learning_rate'": [FIRST],
    "tags.`diagnosis.cause` LIKE 'label%'": [THIRD],
    "tags.`diagnosis.symptom` = 'spike' and tags.`diagnosis.verified` = 'true'": [FIRST, THIRD],
    "tags.`diagnosis.symptom` = 'none' and metrics.best_val_top1 > 0.4": [SECOND, FOURTH],
    "params.`model.norm` = 'bn' and params.`optim.lr` = '3.0'": [FIRST],
    "metrics.grad_norm > 10": [FIRST, THIRD],
    "attributes.status = 'KILLED'": [FIRST, THIRD],
}
"""Query -> norm and rate of the trials that it finds, by trial id."""


@pytest.mark.parametrize(("query", "expected"), QUERIES.items())
def test_a_query_finds_its_trials(query: str, expected: list[str], recorded: Recorded) -> None:
    """Each finds just the runs that it says."""
    runs = recorded.store.client.search_runs([recorded.experiment_id], query)
    runs.sort(key=lambda run: run.data.tags.get("trial_id", ""))
    assert [f"{run.data.params.get('model.norm')} {run.data.params.get('optim.lr')}" for run in runs] == expected

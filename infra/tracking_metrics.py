"""The metrics of one MLflow run as a table; page by page, as the client fetches them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from infra.tracking import check_recorded, open_client, without_password
from infra.tracking_search import find_trial
from trainables.errors import ConfigError, DataError, TrackingError, complaint
from trainables.runlog.names import choose
from trainables.runlog.table import Table, column_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_URI = re.compile(r"runs:/+([^/]+)/?")
RUN_ID = re.compile(r"[0-9a-f]{32}")


def run_id_of(word: str) -> str | None:
    """The id in `runs:/ID` or ID; None where `word` is neither."""
    if uri := RUN_URI.fullmatch(word):
        return uri.group(1)
    return word if RUN_ID.fullmatch(word) else None


def read_run(uri: str, word: str, columns: tuple[str, ...] = ()) -> Table:
    """The metrics that a diagnosis can use, and `columns`, of the run `runs:/ID`, of ID, or of a trial of a sweep.

    Raises ConfigError for a run that is unknown, TrackingError if there is no store or it fails, DataError for a run
    without metrics.
    """
    check_recorded(uri)
    client = open_client(uri)
    run = _find(client, uri, word)
    from mlflow.exceptions import MlflowException

    every = sorted(run.data.metrics)
    if not every:
        raise DataError(complaint("RUN", word, "a run with metrics (this one has none)", "name a trial of the sweep"))
    wanted = {*choose(dict.fromkeys(every, 1)).values(), *columns} & set(every)
    # All of them, where none can be used: the error then names them.
    wanted = {name for name in every if _same_quantity(name, wanted)} or set(every[:20])
    cells: dict[str, list[Any]] = {"tag": [], "step": [], "value": [], "wall_time": []}
    for name in sorted(wanted):
        try:
            history = client.get_metric_history(run.info.run_id, name)
        except MlflowException as error:
            reason = str(error).splitlines()[0][:120]
            allowed = f"a store that gives the metric {name!r} ({reason})"
            raise TrackingError(complaint("--uri", without_password(uri), allowed, "try again later")) from None
        for point in history:
            for key, cell in zip(cells, (name, point.step, point.value, point.timestamp), strict=True):
                cells[key].append(cell)
    rows = range(len(cells["tag"]))
    found = {key: column_of(rows, column) for key, column in cells.items()}
    present = {key: column for key, column in found.items() if column is not None}
    return Table(len(rows), present, str(run.info.run_name or run.info.run_id))


def _same_quantity(name: str, wanted: set[str]) -> bool:
    """Whether `name` holds what one of `wanted` does: which has more points is known only once they are read."""
    own = choose({name: 1})
    return name in wanted or bool(own.keys() & choose(dict.fromkeys(wanted, 1)).keys())


def _find(client: MlflowClient, uri: str, word: str) -> Run:
    from mlflow.exceptions import MlflowException

    run_id = run_id_of(word) or find_trial(uri, word).run_id
    try:
        return client.get_run(run_id)
    except MlflowException:
        allowed = f"the id of a run in {without_password(uri)}"
        raise ConfigError(complaint("RUN", word, allowed, "copy it from the MLflow UI, or give --uri")) from None

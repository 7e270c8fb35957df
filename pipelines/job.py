"""`epoch14 job`, and the end of `epoch14 submit`: what the jobs of a cluster are doing, in lines of text."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from infra.explanation import plain
from infra.jobs import Job, JobState, list_jobs
from pipelines.progress.pace import duration
from pipelines.submit import Told, go_on_command, told_by, where_recorded

if TYPE_CHECKING:
    from rich.table import Table

Write = Callable[[str], None]
NOT_YET = "-"


def follow(job: Job, metadata: Mapping[str, str], write: Write, notify: Write) -> tuple[JobState, list[str]]:
    """Pass the job's log on until it ends; how it ended, and the lines that say so.

    Raises ClusterError, with the command that goes on, where the cluster stays away or has lost the job.
    """
    log: list[str] = []

    def keep(text: str) -> None:
        log.append(text)
        write(text)

    def remedy() -> str:
        again = go_on_command(told_by("".join(log)), dict(metadata))
        look = f"epoch14 job logs {job.job_id} --follow --address {shlex.quote(job.address)}"
        lost = f"; if its head is lost, and the folder or its copy is not, go on with: {again}" if again else ""
        return f"when the cluster is back, follow it with: {look}{lost}"

    state = job.follow(keep, notify, remedy=remedy)
    return state, ending(state, told_by("".join(log)))


def ending(state: JobState, told: Told) -> list[str]:
    """How a job ended or where it is, where its records are, and how to go on with one that did not succeed."""
    lines = [f"job: {state.status.lower()}: {plain(state.message)}", f"MLflow: {where_recorded(told, state)}"]
    again = go_on_command(told, state.metadata)
    if state.is_over and state.status != "SUCCEEDED" and told.folder and again:
        lines.append(f"go on with: {again}")
    return lines


def describe(job: Job) -> list[str]:
    """Lines on one job: when it was started, its command, and what `ending` says; raises ClusterError."""
    state = job.state()
    told = told_by(job.log()) if state.started else Told("", "")
    lines = [f"job: {state.job_id} on {job.address}", f"started: {_when(state)}", f"command: {plain(state.command)}"]
    if told.folder:
        lines.append(f"results: {told.folder}")
    return lines + ending(state, told)


def jobs_table(address: str) -> Table:
    """Every job of the cluster, the newest first; raises ClusterError."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("job", "status", "started"):
        table.add_column(name, no_wrap=True)
    table.add_column("command", overflow="fold")
    for state in list_jobs(address):
        table.add_row(*(Text(plain(cell)) for cell in (state.job_id, state.status, _when(state), state.command)))
    return table


def _when(state: JobState) -> str:
    if state.started is None:
        return NOT_YET
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.started))
    return f"{begun}, {duration((state.ended or time.time()) - state.started)}"

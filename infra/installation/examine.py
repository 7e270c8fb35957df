"""Every check at once, each in a process of its own that is ended when its time is over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from infra.installation.wanted import Wanted
from trainables.data.doctor.finding import SEVERITIES, Finding, Severity

CHECKS = ("host", "packages", "cluster", "gpus", "ranks", "places", "server")
"""Modules of this package, each with a function `check`, in the order in which they are told."""
LIMIT_S = 90.0
"""Of all checks: Ray has taken 60 s to start on two cores with ten processes that want them."""
WANTED = "wanted.json"
_ORDER: tuple[Severity, ...] = (*reversed(SEVERITIES), "ok")
_ROOT = Path(__file__).resolve().parents[2]


def examine_installation(wanted: Wanted, checks: Sequence[str] = (), *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Run the checks, by default all, side by side; returns their findings, the worst first, within about `limit_s`."""
    findings: list[Finding] = []
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="epoch14-doctor-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / WANTED).write_text(wanted.to_json(), encoding="utf-8")
        running = {check: stack.enter_context(_process(check, folder)) for check in checks or CHECKS}
        for check, process in running.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                findings.append(_too_slow(check, limit_s))
            else:
                findings += _answer(check, process.returncode, folder)
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def run_check(name: str, folder: Path) -> None:
    """One check, in the process that was started for it: from WANTED in the folder to NAME.json beside it."""
    wanted = Wanted.from_json((folder / WANTED).read_text(encoding="utf-8"))
    findings: list[Finding] = import_module(f"infra.installation.{name}").check(wanted)
    (folder / f"{name}.json").write_text(json.dumps([asdict(finding) for finding in findings]), encoding="utf-8")


@contextlib.contextmanager
def _process(name: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs one check; at the end neither it nor what it has started is left."""
    command = [sys.executable, "-m", "infra.installation", name, str(folder)]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - this Python and our own module
            command, env=_environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """The caller's, in which epoch14 is found from anywhere, and what is temporary goes with the folder."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(_ROOT), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)}


def _answer(name: str, code: int, folder: Path) -> list[Finding]:
    try:
        told = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return [_crashed(name, code, folder / f"{name}.log")]
    return [Finding(**{**values, "files": ()}) for values in told]


def _too_slow(name: str, limit_s: float) -> Finding:
    summary = f"the check had not ended after {limit_s:g} s"
    remedy = "see what hangs (a mount, a name server, a driver), or how busy the machine is"
    return Finding(name, "error", summary, remedy)


def _crashed(name: str, code: int, log: Path) -> Finding:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")
    reason = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
    summary = f"the check {reason}: {said[:200]}"
    return Finding(name, "error", summary, "install requirements.lock again (make setup)")

"""The clock of this machine against a server's, whose every answer bears the time."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime

from infra.installation.findings import ok
from trainables.data.doctor.finding import Finding, Severity

TIMEOUT_S = 4.0
OFF_S = 30.0
"""Metrics of several nodes no longer line up."""
REFUSED_S = 900.0
"""S3 refuses what was signed by a clock that is a quarter of an hour off (RequestTimeTooSkewed)."""
REMEDY = "set the clock, and let NTP keep it (chrony or systemd-timesyncd)"


def clock_finding(url: str) -> Finding | None:
    """How far the clock is off that of the server at an http(s) URL; None where it tells no time."""
    off = _seconds_off(url)
    if off is None:
        return None
    if abs(off) <= OFF_S:
        return ok("clock", f"within {OFF_S:g} s of {url}")
    way = "ahead of" if off > 0 else "behind"
    severity: Severity = "error" if abs(off) >= REFUSED_S else "warning"
    return Finding("clock", severity, f"this machine's clock is {abs(off):.0f} s {way} that of {url}", REMEDY)


def _seconds_off(url: str) -> float | None:
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http(s), the sweep's own servers
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - as above
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
        error.close()
    except (OSError, ValueError):
        return None
    return time.time() - parsedate_to_datetime(date).timestamp() if date else None

"""What is installed against the lock that it is of, and pyproject.toml's own bounds."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

from infra.installation.findings import ok
from infra.installation.wanted import Wanted
from trainables.data.doctor.finding import Finding

ROOT = Path(__file__).resolve().parents[2]
LOCK, CLUSTER_LOCK = ROOT / "requirements.lock", ROOT / "requirements-cluster.lock"
"""The default one, and that of clusters and images, which has the newest Ray."""
SHOWN = 6
"""Packages that a line names."""
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]+?))? *\\?$", re.MULTILINE)


def check(wanted: Wanted) -> list[Finding]:
    """Whether the packages are those that epoch14 was tested with."""
    del wanted
    needed, missing = _needed()
    lock = own_lock()
    return [*_needed_findings(needed, missing, remedy(lock)), lock_finding(lock)]


def own_lock() -> Path:
    """The lock with the Ray that is installed here; where neither has it, the default."""
    return CLUSTER_LOCK if _version("ray") == pinned(CLUSTER_LOCK).get("ray", "none") else LOCK


def remedy(lock: Path) -> str:
    """How to have what the lock says."""
    by_hand = f"`pip install --require-hashes -r {lock.name}`"
    return by_hand if lock == CLUSTER_LOCK else f"run `make setup`, or {by_hand}"


def pinned(lock: Path) -> dict[str, str]:
    """Name -> version of what the lock pins for this Python and machine; empty where there is no lock."""
    from packaging.markers import Marker
    from packaging.utils import canonicalize_name

    try:
        text = lock.read_text(encoding="utf-8")
    except OSError:
        return {}
    pins = (match.groups() for match in _PIN.finditer(text))
    here = [(name, version) for name, version, marker in pins if not marker or Marker(marker).evaluate()]
    return {canonicalize_name(name): version for name, version in here}


def lock_finding(lock: Path) -> Finding:
    """Packages whose version is not the lock's, by name; those that are not installed at all are no drift."""
    pins = pinned(lock)
    if not pins:
        return Finding("lock", "info", f"there is no {lock.name} beside epoch14 to compare with", "")
    versions = {name: _version(name) for name in sorted(pins)}
    drifted = {name: version for name, version in versions.items() if version and not _same(version, pins[name])}
    absent = [name for name, version in versions.items() if not version]
    if drifted:
        named = _some(f"{name} {version} for {pins[name]}" for name, version in drifted.items())
        return Finding(
            "lock", "warning", f"{len(drifted)} of {len(pins)} packages are not the lock's: {named}", remedy(lock)
        )
    if absent:
        summary = f"{len(absent)} of the lock's {len(pins)} packages are not installed: {_some(absent)}"
        return Finding("lock", "info", summary, "")
    return ok("lock", f"all {len(pins)} packages of {lock.name} are installed in its versions")


def _needed() -> tuple[dict[str, str], list[str]]:
    """What epoch14 can't do without and has in a wrong version (requirement -> version), and what is missing."""
    from packaging.requirements import Requirement

    try:
        listed = importlib.metadata.requires("epoch14") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    requirements = [Requirement(line) for line in listed]
    here = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    versions = {each: _version(each.name) for each in here}
    wrong = {
        f"{each.name}{each.specifier}": version
        for each, version in versions.items()
        if version and not each.specifier.contains(version, prereleases=True)
    }
    return wrong, [each.name for each, version in versions.items() if not version]


def _needed_findings(wrong: dict[str, str], missing: list[str], remedy: str) -> list[Finding]:
    found = []
    if missing:
        found.append(Finding("packages", "error", f"{_some(missing)} not installed", remedy))
    if wrong:
        named = _some(f"{version} for {requirement}" for requirement, version in wrong.items())
        found.append(Finding("packages", "error", f"epoch14 is not made for what is installed: {named}", remedy))
    return found or [ok("packages", "everything that epoch14 needs is installed")]


def _version(name: str) -> str:
    """Installed version; empty where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _same(installed: str, locked: str) -> bool:
    """Whether they are one version; a build of it, as torch's +cpu, is no other unless the lock names one."""
    from packaging.version import Version

    return installed == locked or Version(installed).public == locked


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more

"""Rules for Dockerfiles that hadolint hasn't, or checks less strictly: those bear its number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.infra.images.dockerfile import Instruction, Stage, lineage, read_stages

PINNED = re.compile(r"[a-z0-9.-]+(?:/[a-z0-9._-]+)*:\d[\w.-]*@sha256:[0-9a-f]{64}")
KNOWN = {"FROM", "SHELL", "RUN", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD", "EXPOSE"}
SECRET = re.compile(r"(?i)\b\w*(?:password|secret|token|access_key)\w*=")
Rule = Callable[[list[Stage]], Iterator[tuple[int, str]]]


def complaints(path: Path) -> list[str]:
    """What breaks a rule: `file:line: reason`; empty where all is well."""
    stages = read_stages(path)
    return sorted(f"{path.name}:{line}: {reason}" for rule in RULES for line, reason in rule(stages))


def targets(stages: list[Stage]) -> list[str]:
    """The stages that are images of their own: those that say how they start, themselves or by what they come from."""
    return [one.name for one in stages if any(i.name == "ENTRYPOINT" for i in lineage(stages, one.name))]


def _everything(stages: list[Stage]) -> Iterator[Instruction]:
    for stage in stages:
        yield from stage.instructions


def pinned_bases(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3006, DL3007: a base is an earlier stage, or an image with version and digest."""
    earlier: set[str] = set()
    for stage in stages:
        if stage.base not in earlier and not PINNED.fullmatch(stage.base):
            yield 0, f"FROM {stage.base}: not pinned by version and digest"
        earlier.add(stage.name)


def known_instructions(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3020, DL4000: no ADD, which unpacks and downloads, no MAINTAINER, nothing that these rules don't look into."""
    for one in _everything(stages):
        if one.name not in KNOWN:
            yield one.line, f"{one.name}: not one of {', '.join(sorted(KNOWN))}"


def ends_as_a_user(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3002: an image ends as a user, by number, so that runAsNonRoot can be checked."""
    for name in targets(stages):
        users = [one for one in lineage(stages, name) if one.name == "USER"]
        if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1].arguments):
            yield (users[-1].line if users else 0), f"{name}: does not end with USER uid:gid, both above 0"


def exec_forms(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3025: signals reach the program, not a shell before it."""
    for one in _everything(stages):
        if one.name in ("ENTRYPOINT", "CMD", "SHELL") and one.exec_form is None:
            yield one.line, f"{one.name}: not a JSON list"


def apt_leaves_nothing(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3009, DL3014, DL3015, DL3027: apt-get with its update in one layer, no more than asked for, lists removed."""
    for one in _everything(stages):
        if one.name != "RUN" or not re.search(r"\bapt(-get)?\b", one.arguments):
            continue
        wanted = ("apt-get update", "--yes", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*")
        for part in (part for part in wanted if part not in one.arguments):
            yield one.line, f"apt without {part}"
        if re.search(r"\bapt (?!-)|\bsudo\b|\bupgrade\b", one.arguments):
            yield one.line, "apt, sudo or upgrade in a RUN"


def no_downloads(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """Nothing comes in but by a package manager: no curl, wget or git, no URL, no index of packages named."""
    for one in _everything(stages):
        if one.name == "RUN" and re.search(r"\b(curl|wget|git)\b|://|--(?:extra-)?index-url", one.arguments):
            yield one.line, "a download in a RUN"


def packages_by_hash(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """Python packages are checked against the hashes of a lock.

    Two exceptions: our own package, which comes from no index, and the CPU wheels of torch, pinned by version. Beside
    these --require-hashes would ask for theirs, so that environment relies on the hashes of the constraints.
    """
    for one in _everything(stages):
        if one.name != "RUN" or not re.search(r"\bpip (install|wheel)\b", one.arguments):
            continue
        own = "--no-deps" in one.arguments and (one.arguments.endswith(("/dist/*.whl", "--wheel-dir /dist .")))
        cpu_torch = "--torch-backend cpu" in one.arguments and "requirements-cluster.lock" in one.arguments
        beside_cpu_torch = one.arguments.endswith("--constraint /build/requirements-cluster.lock")
        if not ("--require-hashes" in one.arguments or own or cpu_torch or beside_cpu_torch):
            yield one.line, "packages without hashes"


def small_layers(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3042: no cache of an installer in a layer, no sources and nothing of a stage that builds in an image."""
    for one in _everything(stages):
        if one.name == "RUN" and "pip install" in one.arguments:
            cached = ("mount", "type=cache,target=/var/cache/uv") in one.flags
            if not cached and not re.search(r"--no-cache(-dir)?\b", one.arguments):
                yield one.line, "an installer's cache stays in the layer"
    for name in targets(stages):
        for one in lineage(stages, name):
            if one.name == "COPY":
                yield one.line, f"{name}: COPY in an image; mount what an installer reads"


def pipes_fail(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL4006: the shell of every RUN stops at the first failure, in pipes too."""
    for stage in stages:
        shells = [one for one in lineage(stages, stage.name) if one.name in ("SHELL", "RUN")]
        if shells and (shells[0].name != "SHELL" or "pipefail" not in (shells[0].exec_form or [])):
            yield shells[0].line, f"{stage.name}: RUN before SHELL with pipefail"


def absolute_paths(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3000: a WORKDIR is absolute; DL3003: no cd in a RUN."""
    for one in _everything(stages):
        if one.name == "WORKDIR" and not one.arguments.startswith("/"):
            yield one.line, "WORKDIR is relative"
        if one.name == "RUN" and re.search(r"(?:^|&& |; )cd ", one.arguments):
            yield one.line, "cd in a RUN"


def no_secrets(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """An image's environment is for everyone to read."""
    for one in _everything(stages):
        if one.name == "ENV" and SECRET.search(one.arguments):
            yield one.line, "a secret in ENV"


def low_ports(stages: list[Stage]) -> Iterator[tuple[int, str]]:
    """DL3011: ports are numbers that a user may open."""
    for one in _everything(stages):
        if one.name == "EXPOSE" and not all(word.isdigit() and 1024 <= int(word) <= 65535 for word in one.words):
            yield one.line, "EXPOSE of a port below 1024"


RULES: tuple[Rule, ...] = (
    pinned_bases,
    known_instructions,
    ends_as_a_user,
    exec_forms,
    apt_leaves_nothing,
    no_downloads,
    packages_by_hash,
    small_layers,
    pipes_fail,
    absolute_paths,
    no_secrets,
    low_ports,
)

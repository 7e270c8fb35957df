"""The project's own files: lock, Makefile, CI, layout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-cluster.lock")
ROOMS = ("trainables", "infra", "pipelines")
# Joined here, so that this file names none of them either.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pytorch", "org/whl"),
        ("npmjs", "org"),
        ("deb", "debian", "org"),
        ("proxy", "golang", "org"),
    )
)
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root)/")


@pytest.fixture(scope="module")
def project_files() -> list[Path]:
    """Every file that is or would be committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module", params=LOCKS)
def lock(request: pytest.FixtureRequest) -> str:
    """The text of a lock."""
    name: str = request.param
    return (ROOT / name).read_text(encoding="utf-8")


def make_targets() -> set[str]:
    """Targets of the Makefile that a person may call."""
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared
    return set(declared.group(1).split())


def python_files(*folders: str) -> list[Path]:
    """Python files below the folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_lock_names_versions_and_hashes_only(lock: str) -> None:
    """The lock holds pinned versions, hashes and comments: no address, no option, no path of a machine."""
    pin = re.compile(r"[a-z0-9-]+==[^ ]+(?: ; .+)? \\")
    digest = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}(?: \\)?")
    comment = re.compile(r" {4}#(?: {1,3}(?:via )?[\w.-]+(?: \(pyproject.toml\))?| via)?")
    strange = [line for line in lock.splitlines() if not any(p.fullmatch(line) for p in (pin, digest, comment))]
    assert strange == []


def test_lock_holds_every_dependency(lock: str) -> None:
    """Each dependency of pyproject.toml, the ones for development too, is pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=~!; ]", requirement, maxsplit=1)[0].lower().replace("_", "-") for requirement in wanted}
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert names - pinned == set()


def test_locks_differ_by_ray_alone() -> None:
    """Clusters have the versions and hashes that are tested here, but a newer Ray, and what only one Ray asks for."""
    default, cluster = (
        {block.partition("==")[0]: block for block in re.split(r"(?m)^(?=[a-z])", text) if block}
        for text in ((ROOT / name).read_text(encoding="utf-8") for name in LOCKS)
    )
    pins = [{name: block.partition("    #")[0] for name, block in lock.items()} for lock in (default, cluster)]
    both = default.keys() & cluster.keys()
    assert [name for name in both if pins[0][name] != pins[1][name]] == ["ray"]
    asked = re.compile(r"^ {4}#(?: {3}| via )ray$", re.MULTILINE)
    alone = {name: block for name, block in (default | cluster).items() if name not in both}
    assert [name for name, block in alone.items() if not asked.search(block)] == []
    ours, theirs = (Version(lock["ray"].partition("==")[2].split()[0]) for lock in (default, cluster))
    assert ours == Version("2.54.1")
    assert theirs > ours


def test_no_file_names_a_registry_or_a_machine(project_files: list[Path]) -> None:
    """No committed file names the host of a package registry or a path of the machine it was written on."""
    found = []
    for path in project_files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if any(host in text for host in REGISTRY_HOSTS) or MACHINE_PATH.search(text):
            found.append(str(path.relative_to(ROOT)))
    assert found == []


def test_readme_names_only_targets_that_exist() -> None:
    """Every `make TARGET` of the README is a target."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|[`$] ?)make ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert "sweep" in named
    assert named - make_targets() == set()


def test_make_help_lists_every_target() -> None:
    """`make help` says what each target does."""
    # Under `make test` this is a make in a make, which says where it is.
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == make_targets() - {"help"} | {"help"}


def test_setup_without_python_3_11_says_what_is_missing(tmp_path: Path) -> None:
    """On a machine without Python 3.11 the set-up ends in one line that names the remedy."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "make"):
        (tools / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    ended = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env={"PATH": str(tools)}, check=False, capture_output=True, text=True
    )
    first, *rest = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert first.startswith("epoch14: error: no Python 3.11")
    assert "remedy: apt-get install python3.11-venv" in first
    assert all(line.startswith("make:") for line in rest)


def test_setup_installs_by_hash_and_in_silence() -> None:
    """Whatever set-up installs is checked by hash, and no installer says where it looks."""
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    installs = [line for line in recipe.splitlines() if re.search(r"\bpip (?:install|sync)\b", line)]
    assert len(installs) == 3
    assert all("--quiet" in line for line in installs)
    assert all("--require-hashes" in line or "--editable ." in line for line in installs)


@pytest.mark.parametrize("fails", ["", "check", "test", "test-cluster"])
def test_ci_stops_at_the_first_failure(tmp_path: Path, fails: str) -> None:
    """The checks, then the tests, then the cluster's; none runs after one that fails, and its failure is CI's."""
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    shutil.copy(ROOT / ".ci" / "run", script)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8").splitlines()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, body in (("make", 'echo "ran $1"; [ "$1" != "$FAILS" ]'), ("apt-get", "true")):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "FAILS": fails}
    ended = subprocess.run([str(script)], env=environment, check=False, capture_output=True, text=True, timeout=60)
    parts = ["check", "test", "test-cluster"]
    ran = parts[: parts.index(fails) + 1] if fails else parts
    assert ended.stdout.splitlines() == [f"ran {part}" for part in ran]
    assert (ended.returncode == 0) == (not fails)


def test_every_source_file_lies_in_a_package() -> None:
    """Every folder with Python files is a package, so it is installed and its imports are checked."""
    folders = {path.parent for path in python_files(*ROOMS)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_files_and_functions_stay_small() -> None:
    """One idea a file: 350 lines at most, 50 a function."""
    found = []
    for path in python_files(*ROOMS):
        text = path.read_text(encoding="utf-8")
        lengths = {"": (len(text.splitlines()), 350)} | {
            f": {node.name}": ((node.end_lineno or 0) - node.lineno + 1, 50)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        name = path.relative_to(ROOT)
        found += [f"{name}{part}" for part, (length, most) in lengths.items() if length > most]
    assert found == []

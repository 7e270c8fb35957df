"""The Dockerfiles keep the rules, the rules find what breaks them, and the images hold what the manifests ask for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.infra.images.dockerfile import Instruction, lineage, read_stages
from tests.infra.images.lint import RULES, complaints, targets
from tests.infra.manifests.__main__ import overlays
from tests.infra.manifests.kustomize import render
from tests.infra.manifests.pods import pods

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "infra" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
GOOD = """\
FROM python:3.11.14-slim-bookworm@sha256:{digest} AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update && apt-get install --yes --no-install-recommends gcc && rm -rf /var/lib/apt/lists/*
USER 1000:1000
ENTRYPOINT ["python"]
""".format(digest="0" * 64)
FAULTS = [
    ("@sha256:" + "0" * 64, "", "not pinned"),
    ("3.11.14-slim-bookworm", "latest", "not pinned"),
    ("USER 1000:1000\n", "", "does not end with USER"),
    ("USER 1000:1000", "USER root", "does not end with USER"),
    ("USER 1000:1000", "USER 0:0", "does not end with USER"),
    ('ENTRYPOINT ["python"]', "ENTRYPOINT python", "not a JSON list"),
    (" && rm -rf /var/lib/apt/lists/*", "", "apt without rm"),
    ("apt-get update && ", "", "apt without apt-get update"),
    (" --no-install-recommends", "", "apt without --no-install-recommends"),
    ("USER 1000", "ADD https://example.com/a.tar /a\nUSER 1000", "ADD: not one of"),
    ("USER 1000", "RUN curl -sSf https://example.com | bash\nUSER 1000", "a download"),
    ("USER 1000", "RUN pip install --no-cache-dir ray\nUSER 1000", "packages without hashes"),
    ("USER 1000", "RUN pip install --require-hashes -r a.lock\nUSER 1000", "cache stays in the layer"),
    ("USER 1000", "COPY . /app\nUSER 1000", "COPY in an image"),
    ('SHELL ["/bin/bash", "-euo", "pipefail", "-c"]\n', "", "RUN before SHELL"),
    ("USER 1000", "WORKDIR app\nUSER 1000", "WORKDIR is relative"),
    ("USER 1000", "RUN cd /tmp && ls\nUSER 1000", "cd in a RUN"),
    ("USER 1000", "ENV DB_PASSWORD=x\nUSER 1000", "a secret in ENV"),
    ("USER 1000", "EXPOSE 80\nUSER 1000", "EXPOSE"),
]
"""What to replace in GOOD, by what, and what is then complained of."""


def run_text(path: Path) -> str:
    """The commands of all RUN instructions of a Dockerfile."""
    return "\n".join(one.arguments for stage in read_stages(path) for one in stage.all("RUN"))


def pins(path: Path) -> dict[str, str]:
    """Package -> version of a lock, markers dropped."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_keep_the_rules(path: Path) -> None:
    """Pinned bases, users, hashes, small layers: see tests/infra/images/lint.py."""
    assert complaints(path) == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    """Nor does hadolint, which hands each RUN to ShellCheck, too; what it is to ignore has its reason beside it."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("no hadolint: run `make setup`, whose lock has it")
    linted = subprocess.run([hadolint, "--no-color", path], check=False, capture_output=True, text=True, timeout=60)
    assert linted.stdout + linted.stderr == ""


def test_there_is_an_image_for_each_role() -> None:
    """Head, trials on CPUs and on GPUs, and the tracking server."""
    found = {path.name: targets(read_stages(path)) for path in DOCKERFILES}
    assert found == {"epoch14.Dockerfile": ["trial-cpu", "head", "trial-cuda"], "mlflow.Dockerfile": ["mlflow"]}


@pytest.mark.parametrize(("old", "new", "reason"), FAULTS)
def test_each_rule_finds_what_breaks_it(old: str, new: str, reason: str, tmp_path: Path) -> None:
    """A sound Dockerfile has no complaints, and one with a planted fault has that one."""
    path = tmp_path / "a.Dockerfile"
    path.write_text(GOOD, encoding="utf-8")
    assert complaints(path) == []
    assert old in GOOD
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    assert any(reason in text for text in complaints(path)), complaints(path)


def test_every_rule_is_tried(tmp_path: Path) -> None:
    """For each rule one of the planted faults is one that this rule finds."""
    path = tmp_path / "a.Dockerfile"
    silent = {rule.__name__ for rule in RULES}
    for old, new, _ in FAULTS:
        path.write_text(GOOD.replace(old, new), encoding="utf-8")
        silent -= {rule.__name__ for rule in RULES if list(rule(read_stages(path)))}
    assert silent == set()


def test_commands_are_valid_shell() -> None:
    """Bash parses every RUN."""
    for path in DOCKERFILES:
        parsed = subprocess.run(["bash", "-n", "-c", run_text(path)], check=False, capture_output=True, text=True)
        assert parsed.stderr == ""


def test_images_come_from_the_lock() -> None:
    """Packages are pyproject.toml's, versions the lock's; the tools that build are pinned in it too."""
    text = run_text(DOCKER / "epoch14.Dockerfile")
    install = "--requirement /build/pyproject.toml --extra fast --constraint /build/requirements-cluster.lock"
    assert text.count(install) == 2
    locked = pins(ROOT / "requirements-cluster.lock")
    assert {"uv", "setuptools", "torch", "torchvision"} <= locked.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "fast" in project["optional-dependencies"]


def test_the_tools_that_build_are_cut_out_of_the_lock(tmp_path: Path) -> None:
    """The awk of each Dockerfile leaves these packages of the lock, with their hashes, and no other."""
    for path, wanted in ((DOCKERFILES[0], {"uv", "setuptools"}), (DOCKERFILES[1], {"uv"})):
        awk = re.search(r"(awk '[^']+' requirements(?:-cluster)?\.lock) >", run_text(path))
        assert awk
        cut = subprocess.check_output(["bash", "-c", awk[1]], cwd=ROOT, text=True)
        (tmp_path / "cut.lock").write_text(cut, encoding="utf-8")
        assert pins(tmp_path / "cut.lock").keys() == wanted
        assert "--hash=sha256:" in cut


def test_torch_of_the_cpu_image_has_the_lock_s_version() -> None:
    """The grep of the Dockerfile finds torch and torchvision, once each, as the lock pins them."""
    grep = re.search(r"grep -oE '([^']+)' /build/requirements-cluster\.lock", run_text(DOCKER / "epoch14.Dockerfile"))
    assert grep
    lock = (ROOT / "requirements-cluster.lock").read_text(encoding="utf-8")
    locked = pins(ROOT / "requirements-cluster.lock")
    found = [match[0] for match in re.finditer(grep[1], lock, re.MULTILINE)]
    assert found == [f"torch=={locked['torch']}", f"torchvision=={locked['torchvision']}"]


def test_mlflow_s_lock_is_one_with_ours() -> None:
    """Every package has a hash; those that requirements.lock has too have its version and its hashes."""
    text = (DOCKER / "mlflow.lock").read_text(encoding="utf-8")
    ours, theirs = pins(ROOT / "requirements.lock"), pins(DOCKER / "mlflow.lock")
    blocks = {block.partition("==")[0]: block for block in re.split(r"(?m)^(?=[a-z])", text) if block}
    assert all("--hash=sha256:" in block for block in blocks.values())
    assert {name: version for name, version in theirs.items() if ours.get(name, version) != version} == {}
    assert {"mlflow", "flask-wtf", "psycopg2-binary", "boto3", "uvicorn"} <= theirs.keys()
    assert "torch" not in theirs


def test_the_context_holds_sources_only() -> None:
    """.dockerignore leaves everything out but what the Dockerfiles read: no data, results, history or secrets."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line]
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    read = {word for path in DOCKERFILES for word in copied(path) | mounted(path)}
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert {word.split("/")[0] for word in read} <= allowed
    assert allowed - {word.split("/")[0] for word in read} == {one for one in allowed if one.endswith("/**")}
    for name in (".git", ".venv", "data", "outputs", "mlruns", "**/.env"):
        assert name in rules
        assert rules.index(name) > max(rules.index(f"!{one}") for one in allowed)


def copied(path: Path) -> set[str]:
    """What a Dockerfile copies out of the build context."""
    return {word for stage in read_stages(path) for one in stage.all("COPY") for word in one.words[:-1]}


def mounted(path: Path) -> set[str]:
    """What it mounts out of the build context."""
    flags = [value for stage in read_stages(path) for one in stage.all("RUN") for _, value in one.flags]
    return {match[1] for value in flags if "type=bind" in value and (match := re.search(r"source=([^,]+)", value))}


def test_what_the_dockerfiles_read_is_there() -> None:
    """Every file and folder that is copied or mounted exists."""
    assert [word for path in DOCKERFILES for word in copied(path) | mounted(path) if not (ROOT / word).exists()] == []


def test_the_package_of_the_images_holds_all_that_runs(tmp_path: Path) -> None:
    """A wheel made as the Dockerfile makes it has the command, every module, and the presets."""
    for name in ("trainables", "infra", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "kubernetes"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    make = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    (tmp_path / "dist").mkdir()
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for room in ("trainables", "infra", "pipelines")
        for path in (ROOT / room).rglob("*.py")
    }
    assert modules - names == set()
    assert {f"pipelines/presets/{path.name}" for path in (ROOT / "pipelines" / "presets").glob("*.yaml")} <= names
    (entry,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "epoch14 = pipelines.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def user_of(instructions: list[Instruction]) -> str:
    """The user that an image ends as."""
    return [one.arguments for one in instructions if one.name == "USER"][-1]


def test_pods_run_as_the_user_of_their_image() -> None:
    """The numbers in the manifests are the ones that own the folders in our images."""
    users = {
        user_of(lineage(stages, name))
        for path in DOCKERFILES
        if (stages := read_stages(path))
        for name in targets(stages)
    }
    assert users == {"1000:1000"}
    ours = [pod for overlay in overlays() for pod in pods(render(overlay)) if pod.component != "postgres"]
    assert {(pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"]) for pod in ours} == {
        (1000, 1000)
    }

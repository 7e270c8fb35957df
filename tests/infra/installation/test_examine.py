"""Each check in a process of its own: what it finds, what hangs, and what the command makes of it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.installation import cluster, examine, folders, gpus, packages, places, ranks
from infra.installation.gpus import GIB, Gpu, Gpus
from infra.installation.wanted import Wanted
from pipelines.cli import main
from trainables.data.doctor.finding import Finding

A_GPU = Gpu("NVIDIA H100", 80 * GIB, 79 * GIB)
SOUND = Gpus("580.1", (13, 0), "13.0", 1, (), None, (A_GPU,))


def wanted(folder: Path, **changes: Any) -> Wanted:
    """A sweep in a folder."""
    return Wanted(**{"storage": str(folder), "tracking_uri": f"sqlite:///{folder}/mlflow.db", **changes})


def worst(findings: list[Finding]) -> Finding:
    """The only finding above info."""
    (found,) = (finding for finding in findings if finding.severity in ("warning", "error"))
    return found


def test_the_command_tries_the_places_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real processes, ranks among them, find this machine fit and a missing data set; 1 is the exit code for that."""
    monkeypatch.setenv("EPOCH14_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examine, "CHECKS", ("host", "packages", "places", "ranks"))
    command = ["doctor", "--config", "schedule", "--json", "found.json"]
    assert main(command) == 0
    assert "Nothing above info was found." in capfd.readouterr().out
    content = json.loads(Path("found.json").read_text(encoding="utf-8"))
    found = {finding["check"]: finding for finding in content["findings"] if finding["severity"] == "ok"}
    assert {"python", "packages", "storage", "data", "cache", "ranks"} <= set(found)
    assert "two processes summed over gloo" in found["ranks"]["summary"]
    assert content["wanted"]["storage"] == str(tmp_path / "outputs")
    assert not Path("outputs").exists()
    monkeypatch.setattr(examine, "CHECKS", ("places",))
    assert main([*command, "--set", "data.path=no/images"]) == 1
    shown = capfd.readouterr().out
    assert "Found: 1 error, 0 warnings." in shown
    content = json.loads(Path("found.json").read_text(encoding="utf-8"))
    (first, *_) = content["findings"]
    assert (first["check"], first["severity"]) == ("data", "error")
    assert first["summary"] == f"{tmp_path}/no/images is no folder that can be read"


def test_what_hangs_or_crashes_is_a_finding(tmp_path: Path, use_endpoint: Callable[[str], None]) -> None:
    """A bucket's server that hears and says nothing is given up in time, and its process is gone; a crash is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        use_endpoint(f"http://127.0.0.1:{server.getsockname()[1]}")
        silent = wanted(tmp_path, checkpoints="s3://bucket/runs")
        (found,) = examine.examine_installation(silent, ["places"], limit_s=2.0)
    assert (found.check, found.severity) == ("places", "error")
    assert found.summary == "the check had not ended after 2 s"
    mine = [child for child in psutil.Process().children() if "infra.installation" in " ".join(child.cmdline())]
    assert mine == []
    (found,) = examine.examine_installation(wanted(tmp_path), ["nothing"])
    assert found.severity == "error"
    assert found.summary == "the check ended with 1: ModuleNotFoundError: No module named 'infra.installation.nothing'"


def test_a_missing_bucket_and_a_good_one(s3_client: Any, tmp_path: Path) -> None:
    """A bucket that is there is written, read and left clean, and its clock is compared; one that isn't is an error."""
    found = {each.check: each for each in places.check(wanted(tmp_path, checkpoints="s3://data/runs"))}
    assert found["checkpoints"].summary == "s3://data/runs: an object was written, read and deleted"
    assert found["clock"].severity == "ok"
    left = s3_client.list_objects_v2(Bucket="data", Prefix="runs/").get("Contents", [])
    assert [entry["Key"] for entry in left if "doctor" in entry["Key"]] == []
    missing = wanted(tmp_path, checkpoints="s3://no-such-bucket/runs", data=("stream+s3://data/nothing",))
    bucket, shards = (each for each in places.check(missing) if each.severity == "error")
    assert (bucket.check, bucket.remedy) == ("checkpoints", "make the bucket, or correct its name")
    assert shards.summary == "stream+s3://data/nothing has no index.json: there are no whole shards"


def test_a_full_disk(tmp_path: Path) -> None:
    """No room for a probe is an error, little room for checkpoints a warning; a new folder is not made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine doesn't let this user mount a small disk")
    try:
        little = worst(folders.probe_folder("storage", disk / "new" / "folder", "set storage=FOLDER"))
        (disk / "ballast").write_bytes(bytes(4_000_000))
        full = worst(folders.probe_folder("storage", disk / "new", "set storage=FOLDER"))
        assert [path.name for path in disk.iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", disk], check=True)
    assert little.severity == "warning"
    assert little.summary.endswith("has 4 MB free: less than four checkpoints of a ResNet-50")
    assert full.summary == f"{disk}/new can't be written: No space left on device"
    assert full.remedy == "free space there, or set storage=FOLDER"


def test_a_drifted_lock(tmp_path: Path) -> None:
    """A version that is not the lock's is named with both; another platform's, and a local build, are no drift."""
    own = packages.own_lock()
    lines = own.read_text(encoding="utf-8").splitlines(keepends=True)
    pins = packages.pinned(own)
    assert packages.lock_finding(own).severity == "ok"
    lock = tmp_path / "requirements.lock"
    changed = [line.replace("==", "==0.", 1) if line.startswith(("mlflow==", "rich==")) else line for line in lines]
    lock.write_text("".join(changed), encoding="utf-8")
    found = packages.lock_finding(lock)
    assert found.severity == "warning"
    assert found.summary == (
        f"2 of {len(pins)} packages are not the lock's: "
        f"mlflow {pins['mlflow']} for 0.{pins['mlflow']}, rich {pins['rich']} for 0.{pins['rich']}"
    )
    assert "make setup" in found.remedy
    assert "colorama" not in pins
    assert packages.lock_finding(tmp_path / "none.lock").severity == "info"


@pytest.mark.parametrize(
    ("seen", "wanted_gpu", "severity", "says"),
    [
        (Gpus(), False, "info", "no NVIDIA driver: trials run on the CPU"),
        (Gpus(), True, "error", "the sweep asks for a GPU"),
        (SOUND, True, "ok", "1 of 1 GPUs usable (NVIDIA H100), driver 580.1 (CUDA up to 13.0), torch with CUDA 13.0"),
        (Gpus("535.1", (12, 2), "13.0", 0, (), None, (A_GPU,)), False, "error", "(CUDA up to 12.2) is too old"),
        (Gpus("580.1", (13, 0), "", 0, (), None, (A_GPU,)), False, "error", "built for the CPU alone"),
        (Gpus("580.1", (13, 0), "13.0", 0, (), "", (A_GPU,)), False, "warning", "CUDA_VISIBLE_DEVICES='' hides all 1"),
        (Gpus("580.1", (13, 0), "13.0", 1, ("Tesla K80",), None, (A_GPU,)), False, "error", "no code for Tesla K80"),
    ],
)
def test_gpus_are_judged(seen: Gpus, wanted_gpu: bool, severity: str, says: str) -> None:  # noqa: FBT001 - a parameter
    """Driver, build and environment each have their own sentence."""
    (found,) = gpus.judge(seen, wanted_gpu=wanted_gpu)
    assert found.severity == severity
    assert says in found.summary
    assert bool(found.remedy) == (severity in ("warning", "error"))


def test_a_gpu_that_others_use() -> None:
    """How much is free, and the way to whom it belongs."""
    busy = Gpu("NVIDIA H100", 80 * GIB, 20 * GIB)
    found = worst(gpus.judge(Gpus("580.1", (13, 0), "13.0", 1, (), None, (busy,)), wanted_gpu=True))
    assert found.summary == "GPU 0 has 20.0 of 80.0 GiB free: others use it"


def test_an_interface_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before two processes wait for each other."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth99")
    found = worst(ranks.check(wanted(tmp_path)))
    assert found.summary.startswith("GLOO_SOCKET_IFNAME='eth99' names no interface of this machine (")


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    """The line that `submit` would end in."""
    found = worst(cluster.check(wanted(tmp_path, address="http://127.0.0.1:1")))
    assert (found.check, found.severity) == ("ray", "error")
    assert found.remedy.startswith("start the cluster (ray start --head")

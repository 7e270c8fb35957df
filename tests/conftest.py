"""Data that the tests share. Nothing here names a place on this machine."""

from __future__ import annotations

import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables import places, retries
from trainables.data.index import ImageIndex, open_index
from trainables.rng import generator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in a shell's background, where the processes that the tests interrupt would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

TinyImages = Callable[..., Path]
RAY = re.compile(r"\b(?:ray|Ray|Tune)(?:_\w+)?\b")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
GROUPS = {
    "ray": [
        "infra/test_ray_trial.py",
        *(
            f"pipelines/test_{name}.py"
            for name in (
                "bundle",
                "cli",
                "first_look",
                "kubeflow_steps",
                "malformed",
                "staged",
                "submit",
                "sweep",
                "train",
            )
        ),
    ],
    "servers": [
        *(f"infra/test_tracking{part}.py" for part in ("", "_callback", "_metrics", "_sweeps", "_views", "_writer")),
        *("infra/mlflow_ui/test_clicks.py", "infra/mlflow_ui/test_queries.py"),
    ],
}
"""Files whose tests share a process, and with it a Ray or a server; each other file is a group of its own."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `pytest -n 3 --dist loadgroup` keep the fixtures of a file, or of a group of files, in one process.

    Tests whose file speaks of Ray are those of `make test-newest-ray`.
    """
    group_of = {file: group for group, files in GROUPS.items() for file in files}
    on_ray = {path for path in {item.path for item in items} if RAY.search(path.read_text(encoding="utf-8"))}
    for item in items:
        if item.path in on_ray:
            item.add_marker("ray")
        file = str(item.path.relative_to(Path(__file__).parent))
        item.add_marker(pytest.mark.xdist_group(group_of.get(file, file)))


class RayHere:
    """The Ray of this process, handed on from test to test: each start of one costs ten seconds of CPU.

    Its workers have the environment of the moment when it was started.
    """

    def local(self) -> None:
        """Have one in local mode."""
        self._start(in_process=True)

    def with_actors(self) -> None:
        """Have one with processes of its own for actors."""
        self._start(in_process=False)

    def off(self) -> None:
        """Have none."""
        import ray

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            ray.shutdown()

    def _start(self, *, in_process: bool) -> None:
        from infra.ray_local import in_local_mode
        from infra.ray_runtime import prepare_environment

        prepare_environment()
        import ray

        if ray.is_initialized() and in_local_mode() == in_process:
            return
        self.off()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", ResourceWarning)
            # Without an address Ray would join whatever cluster this machine happens to run.
            ray.init(
                **self._mode(in_process=in_process),
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
            )

    def _mode(self, *, in_process: bool) -> dict[str, Any]:
        from ray._private import worker

        from infra.ray_local import IN_PROCESS

        if hasattr(worker, "LOCAL_MODE"):
            return {"local_mode": in_process}
        return {"namespace": IN_PROCESS if in_process else None}


@pytest.fixture(scope="session")
def ray_here() -> Iterator[RayHere]:
    """The caller's own Ray, for tests of what uses one."""
    here = RayHere()
    yield here
    here.off()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The machine's own Chromium; tests that need it are skipped where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}) is installed")
    return found


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data (../shared/data beside the repository) is absent")
    return folder


@pytest.fixture(scope="session")
def clothing(shared_data: Path) -> Path:
    """Real photos of ten kinds of clothing, 160 px, with train/ and val/."""
    folder = shared_data / "clothing" / "160px"
    if not folder.is_dir():
        pytest.skip("the clothing photos (../shared/data/clothing/160px beside the repository) are absent")
    return folder


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the drawn digits; give it to a command as EPOCH14_CACHE."""
    cache = tmp_path_factory.mktemp("epoch14-cache")
    open_index("digits", cache_dir=cache)
    return cache


@pytest.fixture(scope="session")
def digits_index(digits_cache: Path) -> ImageIndex:
    """The embedded digits."""
    return open_index("digits", cache_dir=digits_cache)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables, to be copied to where records belong: making them anew takes seconds."""
    from infra.tracking import default_tracking_uri, open_client

    folder = tmp_path_factory.mktemp("empty-store")
    open_client(default_tracking_uri(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def tiny_images(tmp_path: Path) -> TinyImages:
    """A factory of small image folders of coloured noise; the same arguments write the same pixels."""

    def write(
        classes: tuple[str, ...] = ("cat", "dog"),
        *,
        train: int = 4,
        val: int = 2,
        size: tuple[int, int] = (40, 32),
        suffix: str = ".png",
        name: str = "images",
    ) -> Path:
        """Write `train` and `val` images of `size` (width, height) for each class; returns the folder."""
        root = tmp_path / name
        for split, count in (("train", train), ("val", val)):
            for label in classes:
                folder = root / split / label
                folder.mkdir(parents=True)
                for place in range(count):
                    rng = generator("tiny_images", split, label, place)
                    colour = rng.uniform(40, 215, size=3)
                    noise = rng.normal(0, 25, size=(size[1], size[0], 3))
                    pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{place:03d}{suffix}")
        return root

    return write


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """URL of a local S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def use_endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let S3 clients go to an address, with some credentials."""

    def use(endpoint: str) -> None:
        settings = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for key, value in settings.items():
            monkeypatch.setenv(key, value)

    return use


@pytest.fixture
def quick_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is tried again be tried three times and soon: in each, pyarrow's own pauses would take seconds."""
    monkeypatch.setattr(places, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(retries, "PAUSES_S", (0.1, 0.2))


@pytest.fixture
def s3_client(
    s3_server: str, use_endpoint: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """A client of that server, with the bucket `data`; pyarrow finds it too."""
    use_endpoint(s3_server)
    monkeypatch.setenv("EPOCH14_CACHE", str(tmp_path / "cache"))
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    return client

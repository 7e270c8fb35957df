"""Checkpoints at S3 that throttles, fails, drops connections, falls silent or no longer knows the credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import torch

from tests.s3_proxy import Proxy, proxy_before
from trainables import places, retries
from trainables.checkpoint import CheckpointStore
from trainables.errors import CheckpointError
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny

NEVER_S = 3600.0
"""A pause that no test would outlive."""


@pytest.fixture
def proxy(s3_server: str, use_endpoint: Callable[[str], None], quick_s3: None) -> Iterator[Proxy]:
    """A way to the bucket `data` on which things go wrong; pauses are short."""
    del quick_s3
    with proxy_before(s3_server) as found:
        use_endpoint(found.url)
        boto3.client("s3").create_bucket(Bucket="data")
        yield found


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A prefix of the test's own."""
    return f"s3://data/{tmp_path.name}"


def saved(store: CheckpointStore, step: int) -> None:
    """Save a state that holds its step."""
    store.save(step, {"a": torch.full((50_000,), float(step))}, {})
    store.wait()


def latest(store: CheckpointStore) -> tuple[int, list[float]] | None:
    """Step and content of the latest checkpoint."""
    found = store.latest()
    return None if found is None else (found.step, found.tensors["a"].unique().tolist())


@pytest.mark.parametrize("kind", ["SlowDown", "drop"])
def test_what_passes_is_waited_out(proxy: Proxy, uri: str, kind: str) -> None:
    """Opening under throttling, then saving and reading through more failures than the file system bears by itself."""
    if kind != "drop":
        proxy.fail(kind, places.S3_ATTEMPTS + 1)
    with CheckpointStore(uri, keep=2) as store:
        for methods in (("PUT", "POST"), ("DELETE", "GET", "HEAD")):
            trouble = proxy.fail(kind, places.S3_ATTEMPTS + 1, methods=methods)
            saved(store, 1)
            assert latest(store) == (1, [1.0])
            assert trouble.seen == places.S3_ATTEMPTS + 1
        assert store.failures == []


def test_one_silence_is_borne(proxy: Proxy, uri: str) -> None:
    """An answer that never comes is given up after seconds, and asked for again."""
    with CheckpointStore(uri, keep=2) as store:
        silence = proxy.fail("hang", 1, methods=("PUT",))
        saved(store, 1)
        assert latest(store) == (1, [1.0])
        assert (silence.seen, store.failures) == (1, [])


def test_throttling_without_end_is_one_line_and_the_next_save_works(proxy: Proxy, uri: str) -> None:
    """The requests are counted: tries times attempts, and few to clean up."""
    with CheckpointStore(uri, keep=2) as store:
        saved(store, 1)
        trouble = proxy.fail("SlowDown")
        saved(store, 2)
        (failure,) = store.failures
        assert failure.startswith(f"the checkpoint of step 2 was not written to {uri}: ")
        assert failure.endswith("or with fewer readers and writers at a time: the store throttles")
        assert "\n" not in failure
        assert trouble.seen <= places.S3_ATTEMPTS * (len(retries.PAUSES_S) + 1) + 3 * places.S3_ATTEMPTS
        with pytest.raises(CheckpointError, match=r"a place that can be read .* the store throttles"):
            store.latest()
        proxy.fault = None
        assert latest(store) == (1, [1.0])
        saved(store, 3)
        assert latest(store) == (3, [3.0])


def test_expired_credentials_are_told_at_once(proxy: Proxy, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a run, when it reads, and at its start: no pause, one line, and the way to new ones."""
    monkeypatch.setattr(retries, "PAUSES_S", (NEVER_S,))
    with CheckpointStore(uri, keep=2) as store:
        saved(store, 1)
        expired = proxy.fail("ExpiredToken")
        saved(store, 2)
        (failure,) = store.failures
        assert "remedy: renew the credentials" in failure
        assert expired.seen <= 4
        with pytest.raises(CheckpointError, match=r"a place that can be read .* remedy: renew the credentials"):
            store.latest()
    with pytest.raises(CheckpointError, match=r"ExpiredToken.* remedy: renew the credentials: AWS_SES") as caught:
        CheckpointStore(uri, keep=2)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_through_throttling_has_the_bits_of_a_quiet_one(
    proxy: Proxy, uri: str, tiny: Tiny, tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted and resumed, with S3 in trouble at each save and at the resume."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    config = tiny(max_steps=3)

    def run(place: str, *stops: int | None) -> list[Any]:
        rows: list[dict[str, Any]] = []
        for stop in stops:
            if len(stops) > 1:
                proxy.fail("SlowDown", places.S3_ATTEMPTS + 1)
            run_trial(config, rows.append, checkpoints=place, stop_after=stop)
        return [(step["step"], step["loss"]) for row in rows for step in row["history"]]

    assert run(f"{uri}-loud", 2, None) == run(str(tmp_path), None)

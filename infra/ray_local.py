"""Trials in the driver's own process, where a debugger can stop them: in Ray's local mode, or without it.

Ray up to 2.54 has `ray.init(local_mode=True)`, which a caller may use; 2.55 took it out. So `--local` starts a Ray of
any version that no trial uses, and here Tune gets actors whose methods run at once, in this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

IN_PROCESS = "epoch14-in-process"
"""Namespace of a Ray whose driver runs the trials."""
LOCAL_MODE_TOKENS = (":task_name:", ":actor_name:", ":job_id:")


def in_local_mode() -> bool:
    """Whether trials on the initialised Ray run in this process."""
    return _in_rays_local_mode() or _without_actors()


@contextlib.contextmanager
def quiet_tune() -> Iterator[None]:
    """Keep Tune's log and local mode's control lines off the terminal; errors reach the user in the rows."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.ExitStack() as stack:
            if _in_rays_local_mode():
                stack.enter_context(contextlib.redirect_stdout(_Filter(sys.stdout)))
                stack.enter_context(contextlib.redirect_stderr(_Filter(sys.stderr)))
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def tune_without_actors() -> Iterator[None]:
    """Have Tune run its trials in this process, one at a time, where the initialised Ray was started for that."""
    from ray.tune import tune

    # Tuner has no way to pass on what the controller can be given.
    engine: Any = tune
    usual = engine.TuneController
    if _without_actors():
        engine.TuneController = _controller(usual)
    try:
        yield
    finally:
        engine.TuneController = usual


def _in_rays_local_mode() -> bool:
    from ray._private import worker

    # Ray 2.55 and later have no such mode.
    local_mode = getattr(worker, "LOCAL_MODE", None)
    return local_mode is not None and bool(worker.global_worker.mode == local_mode)


def _without_actors() -> bool:
    import ray

    return bool(ray.get_runtime_context().namespace == IN_PROCESS)


class _Filter:
    """A text stream without the tokens that local mode prints at each task."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith(LOCAL_MODE_TOKENS) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _controller(usual: Any) -> Any:
    """Tune's controller, which asks a budget of one CPU for actors instead of Ray's placement groups."""
    from ray.air.execution.resources.fixed import FixedAcquiredResources, FixedResourceManager

    class Here(FixedAcquiredResources):
        def _annotate_remote_entity(self, entity: Any, bundle: dict[str, float], bundle_index: int) -> Any:
            del bundle, bundle_index
            return _ActorClass(entity.__ray_metadata__.modified_class)

    class Budget(FixedResourceManager):
        _resource_cls: Any = Here

    class Controller(usual):  # type: ignore[misc] # a parameter
        def __init__(self, **options: Any) -> None:
            super().__init__(resource_manager_factory=lambda: Budget({"CPU": 1}), **options)

    return Controller


class _ActorClass:
    """What Ray's actor class is to Tune, for an actor that is a plain object of this process."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def remote(self, **options: Any) -> _Actor:
        return _Actor(self._kind(**options))


class _Actor:
    """Its methods have a `remote`, which runs them at once and returns a reference to what they returned or raised."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._actor, name))


class _Method:
    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def remote(self, *args: Any, **options: Any) -> Any:
        import ray
        from ray.exceptions import RayTaskError

        try:
            return ray.put(self._method(*args, **options))
        except Exception as error:  # noqa: BLE001 - Tune takes every failure of a trial out of the reference
            text = traceback.format_exc()
            return ray.put(RayTaskError(self._method.__name__, text, error, pid=os.getpid()))

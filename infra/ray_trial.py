"""One trial: in the Tune actor itself, or as a Ray Train worker group whose reports are passed on to Tune.

The loop knows neither: `trainables.trial.run_trial` gets a config and a `report` callable, and a process group where
Ray Train made one. A trial that Tune stops is killed, so nothing here reads a failure from an exception of its driver.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.notice import InterruptedTrialError, listen
from infra.ray_capacity import Need
from infra.ray_notice import Notice, StopWord
from infra.ray_runtime import Cluster, disarm_arrow_types, prepare_environment, tell_address_to_train
from infra.space import merge_point
from infra.system_metrics import with_system_metrics

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig, TorchTrainer

    from trainables.trial import TrialResult

log = logging.getLogger(__name__)

TuneFunction = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialJob:
    """What a process is to run."""

    values: Mapping[str, Any]
    """The trial's raw config."""
    checkpoints: str
    """Where its checkpoints lie."""
    system_every_s: float | None = None
    """Seconds between two samples of the machine; None: none."""
    word: StopWord = field(default_factory=StopWord)
    """By which its sweep tells it to end."""


def trial_function(
    base: Mapping[str, Any],
    need: Need,
    storage: str,
    checkpoints: Callable[[str], str],
    system_every_s: float | None = None,
    word: StopWord | None = None,
) -> TuneFunction:
    """A Tune function trainable that runs the trial `base` at the point that it gets as its config.

    `storage`: folder for what Ray Train keeps of its worker groups; `checkpoints`: trial id -> folder or URI;
    `system_every_s`: seconds between two samples of the machine, None: none; `word`: tells the trials to end.
    """
    heeded = word or StopWord()

    def trial(point: dict[str, Any]) -> None:
        from ray import tune

        place = checkpoints(tune.get_context().get_trial_id())
        job = TrialJob(merge_point(base, point), place, system_every_s, heeded)
        if need.workers == 1:
            _run_here(job)
        else:
            _run_worker_group(job, need, storage)

    return trial


def listening_trainable(function: TuneFunction) -> Any:
    """The trainable class that Tune makes of `function`, in whose processes SIGTERM is a notice.

    Its set-up runs in an actor's main thread, where handlers can be set, its function in another.
    """
    from ray.tune.trainable.function_trainable import wrap_function

    base: Any = wrap_function(function)

    class Listening(base):  # type: ignore[misc] # made at run time
        def setup(self, config: dict[str, Any]) -> None:
            listen()
            super().setup(config)

    return Listening


def trial_checkpoints(root: str, *, only_trial: bool) -> Callable[[str], str]:
    """Trial id -> where its checkpoints lie below `root`; those of an only trial are found again under any id."""

    def place(trial_id: str) -> str:
        return f"{root}/checkpoints" if only_trial else f"{root}/{trial_id}/checkpoints"

    return place


def trial_resources(need: Need, cluster: Cluster) -> Any:
    """What Tune reserves for one trial: its only worker's share, or the driver's place on the head."""
    if cluster.local_mode:
        return {"CPU": 1}
    if need.workers > 1:
        return dict(cluster.driver_resource)
    return {"CPU": need.cpus_per_worker} | ({"GPU": need.gpus_per_worker} if need.gpus_per_worker else {})


def _run_here(job: TrialJob) -> None:
    disarm_arrow_types()
    from ray import tune

    from trainables.config import TrialConfig
    from trainables.trial import run_trial

    report = with_system_metrics(tune.report, job.system_every_s)
    config, notice = TrialConfig.parse(job.values), Notice(job.word)
    result = run_trial(config, report, checkpoints=job.checkpoints, notice=notice)
    _raise_if_interrupted(result)


def _run_worker_group(job: TrialJob, need: Need, storage: str) -> None:
    prepare_environment()
    disarm_arrow_types()
    tell_address_to_train()
    from ray.train import WorkerGroupError

    from infra.ray_lost import known_nodes, lost_nodes

    while True:
        before = known_nodes()
        try:
            _worker_group(job, need, storage).fit()
        except WorkerGroupError as error:
            if job.word.is_said():
                raise
            lost = lost_nodes(error.worker_failures.values(), before)
            if not lost:
                raise
            log.warning("lost %s; the trial goes on from its last checkpoint", ", ".join(sorted(lost)))
        else:
            return


def _worker_group(job: TrialJob, need: Need, storage: str) -> TorchTrainer:
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    per_worker = {"CPU": float(need.cpus_per_worker)}
    on_gpus = need.gpus_per_worker and job.values.get("device") != "cpu"
    return TorchTrainer(
        _run_worker,
        train_loop_config={"job": dataclasses.replace(job, values=dict(job.values))},
        # Metrics are summed on the host, gradients on the GPUs.
        torch_config=_listening_torch_config("cpu:gloo,cuda:nccl" if on_gpus else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=need.workers,
            use_gpu=bool(need.gpus_per_worker),
            placement_strategy=need.placement.upper(),
            resources_per_worker=per_worker | ({"GPU": need.gpus_per_worker} if need.gpus_per_worker else {}),
        ),
        run_config=train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=storage,
            callbacks=[TuneReportCallback()],  # type: ignore[list-item] # typed for Train V1
        ),
    )


def _listening_torch_config(backend: str) -> TorchConfig:
    """Ray Train's set-up of torch, which first has each worker take SIGTERM as a notice."""
    from ray.train.torch import TorchConfig

    class Listening(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            base: Any = super().backend_cls

            class ListeningBackend(base):  # type: ignore[misc] # made at run time
                def on_start(self, worker_group: Any, backend_config: Any) -> None:
                    worker_group.execute(listen)
                    super().on_start(worker_group, backend_config)

            return ListeningBackend

    return Listening(backend=backend)


def _run_worker(loop_config: dict[str, TrialJob]) -> None:
    """One rank. Every rank reports, for Ray Train waits for all; rank 0's rows are the ones that count."""
    disarm_arrow_types()
    from ray import train

    from trainables.config import TrialConfig
    from trainables.trial import run_trial

    job = loop_config["job"]
    config = TrialConfig.parse(job.values)
    _choose_device(config.device)
    report = with_system_metrics(train.report, job.system_every_s)
    result = run_trial(config, report, checkpoints=job.checkpoints, notice=Notice(job.word))
    _raise_if_interrupted(result)


def _raise_if_interrupted(result: TrialResult) -> None:
    if result.phase == "interrupted":
        raise InterruptedTrialError(f"told to stop at step {result.steps}; a checkpoint of it is there")


def _choose_device(device: str) -> None:
    """Ranks of one node see all of its GPUs; make `cuda` mean this rank's."""
    import torch
    from ray.train.torch import get_device

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(get_device())

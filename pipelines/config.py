"""SweepConfig: which trials to run, how to search, on what, and where the records go.

A sweep is one base trial, a space of axes over it, and a search. Presets lie in `pipelines/presets/*.yaml`; any other
YAML file of the same form works too. Every fault ends in one line: key, value, what is allowed, the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from infra.space import Axis, Range, grid_size, merge_point, parse_space, probe_points, trial_config
from infra.tracking import default_tracking_uri
from pipelines.overrides import apply_overrides
from pipelines.yaml_text import dump_yaml, read_mapping
from trainables.config import TrialConfig
from trainables.errors import ConfigError, complaint
from trainables.section import PositiveInt, Section
from trainables.shares import check_shares
from trainables.uris import is_uri

PRESETS = Path(__file__).parent / "presets"


class AshaConfig(Section):
    """Asynchronous successive halving on val_top1 (Li et al. 2020)."""

    grace_steps: PositiveInt = 50
    """Steps that every trial gets."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """One in so many goes on at each rung."""


class SearchConfig(Section):
    """How points of the space are chosen."""

    kind: Literal["grid", "random", "optuna"] = "grid"
    """grid: every point; random: independent draws; optuna: its TPE sampler."""
    num_trials: PositiveInt | None = None
    """Trials of random and optuna; null for grid, whose size is the space's."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Keys the draws of random and optuna; trials have their own seed."""
    asha: AshaConfig | None = None
    """null: no trial is stopped for being worse than another."""
    max_concurrent: PositiveInt = 1
    """Trials that run at the same time, where resources allow."""


class ResourcesConfig(Section):
    """What one trial gets."""

    workers: PositiveInt = 1
    """1: the loop runs in the Tune actor itself; more: a Ray Train worker group."""
    cpus_per_worker: PositiveInt = 2
    """Ray CPUs reserved for each worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """Ray GPUs reserved for each worker; a fraction shares one."""
    placement: Literal["pack", "spread", "strict_spread"] = "pack"
    """Workers of a trial on as few nodes as there is room for, on as many, or on a node each."""


class TrackingConfig(Section):
    """Where MLflow records go."""

    uri: str | None = None
    """MLflow tracking URI; null: an SQLite store in `storage`."""
    experiment: Annotated[str, Field(min_length=1)] = "epoch14"
    """MLflow experiment."""
    system_metrics_every_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 30.0
    """Seconds between two samples of how busy a trial's machine is; null: none."""


class SweepConfig(Section):
    """One sweep."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$")] = "sweep"
    """Names the parent run and the result folder."""
    trial: dict[str, Any] = Field(default_factory=dict)
    """The base trial: any part of a TrialConfig."""
    space: dict[str, Any] = Field(default_factory=dict)
    """Axis -> values or range, see infra.space."""
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: Annotated[str, Field(min_length=1)] = "outputs"
    """Folder for results and the default tracking store."""
    checkpoints: Annotated[str, Field(min_length=1)] | None = None
    """Folder or s3://bucket/prefix for the trials' checkpoints, which every node must reach, and a copy of the sweep's
    state, by which it outlives a lost head; null: in `storage`."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check `values`, every axis and every point that stands for the space; raises ConfigError."""
        config = super().parse({key: value for key, value in values.items() if value is not None})
        axes = config.axes
        _check_search(config.search, axes)
        longest = 0
        for point in probe_points(axes):
            trial = trial_config(config.trial, point)
            check_shares(trial, config.resources.workers)
            longest = max(longest, trial.max_steps)
        _check_asha(config.search.asha, longest)
        _check_storage(config.storage)
        return config

    @classmethod
    def load(cls, preset_or_path: str, overrides: Sequence[str] = ()) -> Self:
        """Read a preset or a YAML file and apply `--set` overrides; raises ConfigError."""
        raw = read_mapping(find_preset(preset_or_path))
        return cls.parse(apply_overrides(raw, overrides, cls.dotted_keys()))

    @classmethod
    def dotted_keys(cls) -> dict[str, bool]:
        """Every dotted key -> whether it is a section itself."""
        return super().dotted_keys() | {f"search.asha.{key}": False for key in AshaConfig.model_fields}

    @property
    def axes(self) -> dict[str, Axis]:
        """The checked space."""
        return parse_space(self.space)

    @property
    def num_trials(self) -> int:
        """Trials that the search will start."""
        return self.search.num_trials or grid_size(self.axes)

    @property
    def tracking_uri(self) -> str:
        """The tracking URI in use; by default an SQLite file in the storage folder."""
        return self.tracking.uri or default_tracking_uri(self.storage)

    def to_yaml(self) -> str:
        """The whole config with every default written out; `load` of it gives an equal sweep."""
        whole = self.model_dump(mode="json")
        defaults = TrialConfig().model_dump(mode="json")
        for key, value in self.trial.items():
            defaults = merge_point(defaults, {key: value})
        whole["trial"] = defaults
        return dump_yaml(whole)


def find_preset(name: str) -> Path:
    """The file of a preset's name or of a path to a YAML file; raises ConfigError with close matches."""
    if (PRESETS / f"{name}.yaml").is_file() and "/" not in name:
        return PRESETS / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    presets = preset_names()
    near = difflib.get_close_matches(Path(name).stem, presets, n=2, cutoff=0.5)
    remedy = f"write {' or '.join(near)}" if near else "choose one of them or give the path of a YAML file"
    raise ConfigError(complaint("preset", name, f"{', '.join(presets) or 'none installed'}, or a YAML file", remedy))


def preset_names() -> list[str]:
    """Names of the installed presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _check_search(search: SearchConfig, axes: Mapping[str, Axis]) -> None:
    if search.kind == "grid":
        ranges = [name for name, axis in axes.items() if isinstance(axis, Range)]
        if ranges:
            allowed, remedy = "a list of values under search.kind grid", "set search.kind=random or list values"
            raise ConfigError(complaint(f"space.{ranges[0]}", axes[ranges[0]], allowed, remedy))
        if search.num_trials is not None:
            allowed = f"null under search.kind grid, whose space has {grid_size(axes)} points"
            remedy = "remove it or set search.kind=random"
            raise ConfigError(complaint("search.num_trials", search.num_trials, allowed, remedy))
    elif search.num_trials is None:
        allowed = f"a whole number from 1 under search.kind {search.kind}"
        raise ConfigError(complaint("search.num_trials", None, allowed, "set search.num_trials=8"))


def _check_asha(asha: AshaConfig | None, longest: int) -> None:
    if asha is not None and asha.grace_steps > longest:
        allowed = f"at most {longest}, the max_steps of the longest trial"
        raise ConfigError(complaint("search.asha.grace_steps", asha.grace_steps, allowed, "lower it or train longer"))


def _check_storage(storage: str) -> None:
    if is_uri(storage):
        allowed = "a folder; buckets are for the tracking server's artifacts"
        raise ConfigError(complaint("storage", storage, allowed, "set storage=outputs"))

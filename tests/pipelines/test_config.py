"""SweepConfig: presets, files, overrides, and one line for each fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import PRESETS, SweepConfig, find_preset
from trainables.errors import ConfigError

SWEEP = """\
name: first
trial: {max_steps: 60, optim: {lr: 1e-1}}
space:
  schedule: [{kind: multi_step, milestones: [20, 40]}, {kind: cosine}]
  global_batch_size: [16, 64]
  model.norm: [bn, gn]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A sweep of 8 points."""
    path = tmp_path / "first.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    return path


def load(file: Path, *overrides: str) -> SweepConfig:
    """The sweep with these overrides."""
    return SweepConfig.load(str(file), overrides)


def test_minimal_sweep_is_one_trial() -> None:
    """Everything has a default: an empty mapping is one trial on the digits."""
    config = SweepConfig.parse({})
    assert (config.num_trials, config.search.kind, config.resources.workers) == (1, "grid", 1)


def test_yaml_numbers_are_numbers(file: Path) -> None:
    """`1e-1` is a float, which YAML 1.1 would read as text."""
    assert load(file).trial["optim"]["lr"] == 0.1


def test_grid_size_is_the_number_of_trials(file: Path) -> None:
    """A grid runs each point once."""
    assert load(file).num_trials == 8


def test_resolved_yaml_gives_the_same_sweep(file: Path, tmp_path: Path) -> None:
    """`epoch14 config` prints every default, and what it prints is a config that resolves to itself."""
    config = load(file, "search.asha.grace_steps=5", "data.path=digits")
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml(), encoding="utf-8")
    assert load(again).to_yaml() == config.to_yaml()
    assert load(again).axes == config.axes
    assert "momentum: 0.9" in config.to_yaml()


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("max_steps=30", ("max_steps",), 30),
        ("optim.lr=1e-3", ("optim", "lr"), 0.001),
        ("trial.optim.lr=0.5", ("optim", "lr"), 0.5),
        ("optim={lr: 0.3}", ("optim",), {"lr": 0.3}),
        ("data.path=a=b", ("data", "path"), "a=b"),
        ("optim.clip_grad_norm=null", ("optim", "clip_grad_norm"), None),
    ],
)
def test_trial_key_stands_for_itself(file: Path, override: str, path: tuple[str, ...], value: object) -> None:
    """A TrialConfig key needs no `trial.` before it; values are YAML."""
    trial: Any = load(file, override).trial
    for key in path:
        trial = trial[key]
    assert trial == value


def test_sweep_keys_are_dotted_paths(file: Path) -> None:
    """Keys of the sweep's own sections are set by their path, sections that are null included; the last word counts."""
    config = load(file, "search.kind=random", "search.num_trials=3", "search.asha.grace_steps=7", "name=a", "name=b")
    assert (config.search.kind, config.num_trials, config.name) == ("random", 3, "b")
    assert config.search.asha is not None
    assert config.search.asha.grace_steps == 7


def test_override_fixes_an_axis(file: Path) -> None:
    """What is set holds for every trial: an axis of that key leaves the space."""
    config = load(file, "model.norm=gn")
    assert config.trial["model"] == {"norm": "gn"}
    assert list(config.space) == ["schedule", "global_batch_size"]


def test_override_inside_a_section_axis(file: Path) -> None:
    """A key inside a section that is an axis is written into each of its values; values that become equal are one."""
    assert load(file, "schedule.gamma=0.5").space["schedule"] == [
        {"kind": "multi_step", "milestones": [20, 40], "gamma": 0.5},
        {"kind": "cosine", "gamma": 0.5},
    ]
    assert load(file, "space.schedule=[{kind: multi_step}, {kind: cosine}]", "schedule.kind=constant").num_trials == 4


def test_override_of_a_joined_axis(file: Path) -> None:
    """Of names that change together the one that is set leaves the axis, or takes the key into its values."""
    joined = "space={schedule+optim: [{schedule: {kind: cosine}, optim: {lr: 1.0}}, {schedule: {}, optim: {lr: 0.1}}]}"
    assert load(file, joined).num_trials == 2
    assert load(file, joined, "optim={lr: 0.2}").space == {"schedule": [{"kind": "cosine"}, {}]}
    assert load(file, joined, "optim.lr=0.2").space == {
        "schedule+optim": [
            {"schedule": {"kind": "cosine"}, "optim": {"lr": 0.2}},
            {"schedule": {}, "optim": {"lr": 0.2}},
        ]
    }


def test_whole_section_fixes_all_of_its_axes(file: Path) -> None:
    """Setting a section drops the axis of the section and those of its keys."""
    config = load(file, "space.schedule.gamma=[0.1, 0.5]", "schedule={kind: constant}")
    assert list(config.space) == ["global_batch_size", "model.norm"]


def test_axes_can_be_set(file: Path) -> None:
    """An axis is set by its name after `space.`, and the whole space by `space`."""
    assert load(file, "space.optim.lr=[0.1, 0.2]").num_trials == 16
    assert load(file, "space={}").num_trials == 1


def test_loading_leaves_no_trace(file: Path) -> None:
    """Overrides change neither the file nor what a later load sees."""
    load(file, "optim.lr=0.7", "schedule.gamma=0.5")
    assert file.read_text(encoding="utf-8") == SWEEP
    assert "gamma" not in load(file).space["schedule"][0]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.learning_rate=1", r"--set optim\.learning_rate.*remedy"),
        ("lr=1", r"remedy: write --set optim\.lr=\.\.\."),
        ("serch.kind=random", r"remedy: write --set search\.kind"),
        ("resources.cpus=4", r"cpus_per_worker"),
        ("trial.optim.lrr=1", r"remedy: write --set trial\.optim\.lr"),
        ("search.asha.grace=1", r"grace_steps"),
        ("max_steps", "key=value"),
        ("trial.optim=3", r"optim: 3"),
        ("trial=3", "trial: 3"),
        ("space.lr=[1]", r"space\.optim\.lr"),
        ("optim.lr=[0.1, 0.2]", r"optim\.lr: \[0\.1, 0\.2\] is not allowed"),
        ("name=a/b", "name: 'a/b'"),
        ("storage=s3://bucket/x", "storage"),
    ],
)
def test_bad_override(file: Path, override: str, says: str) -> None:
    """A wrong override names its key, and what the user may have meant."""
    with pytest.raises(ConfigError, match=says) as caught:
        load(file, override)
    assert "\n" not in str(caught.value)
    assert "remedy: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("search: {asha: {grace_steps: 500}}\ntrial: {max_steps: 50}", "grace_steps: 500.*at most 50"),
        ("space: {schedule: [{kind: cosine}, {kind: coarse}]}", "schedule.kind: 'coarse'"),
        ("space: {max_steps: [50, 5]}\ntrial: {schedule: {warmup_steps: 20}}", "warmup_steps: 20"),
        ("space: {global_batch_size: [8, 1]}\nresources: {workers: 2}", "global_batch_size: 1"),
        ("search: {kind: grid, num_trials: 4}", "num_trials: 4.*null under search.kind grid"),
        ("trial: {optim: 3}\nspace: {optim.lr: [0.1]}", "trial.optim: 3"),
        ("name: a\nname: b", "'name' stands twice.*line 2"),
        ("trial: {max_steps: 50", "valid YAML"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, says: str) -> None:
    """A fault at any point of the space, or between sections, is found when the config is built."""
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        load(path)


def test_unknown_preset_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name lists the presets and the closest ones; a folder is no preset."""
    monkeypatch.setattr("pipelines.config.PRESETS", tmp_path)
    for name in ("first_light", "clothing"):
        (tmp_path / f"{name}.yaml").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'frist_light'.*clothing, first_light.*remedy: write first_light"):
        find_preset("frist_light")
    with pytest.raises(ConfigError, match="a YAML file"):
        find_preset(str(tmp_path))


def test_file_may_be_called_as_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path always means that file; a bare name means the preset first."""
    (tmp_path / "mine.yaml").write_text("name: mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert SweepConfig.load("mine.yaml").name == "mine"
    assert PRESETS.is_dir()

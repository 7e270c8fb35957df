"""Every command of README, tutorial and how-to: run here, run by another test, or only parsed, with the reason.

Parsed are all of them: by the shell, then by the command line that they name, with their config keys and presets.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from pipelines.cli import main
from tests.documents import DOCS, PAGES, ROOT, Command, anchors, commands, fences, make_targets, mentions, parse
from tests.local_servers import free_port, status_of

Kind = Literal["here", "tutorial", "test", "parsed"]
TUTORIAL, IMAGENET = DOCS / "tutorial.md", DOCS / "imagenet.md"


class Way(NamedTuple):
    """How the commands that `pattern` matches in full are tested."""

    pattern: str
    kind: Kind
    """here: run below as it stands, on a few images; tutorial: run below by `make test-slow`; test: `note` is
    the test that runs the same; parsed: not run, and `note` says why not."""
    note: str = ""


TRAINING = "wants 8 GPUs and ImageNet; each recipe's first steps on the digits: test_presets.py"
PIPELINES = "tests/pipelines"
SUBMIT = f"{PIPELINES}/test_submit.py"
WAYS = (
    Way(r"epoch14 (shard|doctor|config) .*", "here"),
    Way(r"epoch14 sweep (schedule|batch_norm|preprocessing)( --set .*)?", "tutorial"),
    Way(r"epoch14 train (\w+_)?00000 .*", "tutorial"),
    Way(r"epoch14 (explain 00000|report schedule|compare .*|ui)", "tutorial"),
    Way(r"make setup", "parsed", "the environment that runs this test was made by it, and it would make it anew"),
    Way(r"\. \.venv/bin/activate", "parsed", "for the shell of the one who types it; the test has its folder on PATH"),
    Way(r"export .*", "parsed", "sets variables of the one who types it, some with a placeholder"),
    Way(r"make sweep", "parsed", "eight minutes; the tutorial runs the same command on smaller presets"),
    Way(r"make ui", "test", "tests/infra/test_tracking.py::test_the_ui_of_a_local_store_shows_its_artifacts"),
    Way(r"make reference", "test", f"{PIPELINES}/test_reference.py::test_the_committed_page_is_what_is_generated"),
    Way(r"make manifests", "test", "tests/infra/test_kubernetes_schemas.py::test_the_readme_has_the_table_as_it_is"),
    Way(r"make (test(-newest-ray|-cluster|-slow)?|check)", "parsed", "runs this test, its siblings, or the linters"),
    Way(r"make bench-[a-z]+", "parsed", "measures for minutes to hours"),
    Way(r"python -m \S+plain_loop", "test", f"{PIPELINES}/examples/test_examples.py::test_plain_loop_is_healed"),
    Way(r"epoch14 sweep .* --fault .*", "test", f"{PIPELINES}/test_fault_option.py::test_a_fault_becomes_the_trials"),
    Way(r"epoch14 train imagenet_\w+ .*", "parsed", TRAINING),
    Way(
        r"epoch14 train \w+_00003 .*", "test", f"{PIPELINES}/test_train.py::test_a_recorded_trial_is_trained_by_its_id"
    ),
    Way(r"epoch14 mlflow-server .*", "test", "tests/infra/mlflow/test_server.py::test_an_artifact_lands_in_the_bucket"),
    Way(r"ray get-auth-token .*", "parsed", "writes the token of whoever runs it"),
    Way(r"ray (up|dashboard|down) .*", "test", "tests/infra/test_ray_up.py::test_down_leaves_nothing"),
    Way(r"epoch14 submit .* --resume .*", "test", f"{SUBMIT}::test_a_sweep_is_stopped"),
    Way(r"epoch14 submit (?!.*--resume).*", "test", f"{SUBMIT}::test_sweep_runs_on_the_cluster"),
    Way(r"epoch14 job stop .*", "test", f"{SUBMIT}::test_a_sweep_is_stopped"),
    Way(r"epoch14 job status .*", "test", f"{SUBMIT}::test_jobs_are_listed_and_unknown_ones_are_refused"),
    Way(r"epoch14 job logs .*", "test", f"{SUBMIT}::test_the_log_outlives_a_lost_connection"),
    Way(r"epoch14 (report|explain) .* --uri .*", "parsed", "a server of one's own; the tutorial runs both on a file"),
)
ALL = [command for page in PAGES for command in commands(page)]
FOUND = (0, 1)
"""Exit codes of a doctor, who may find something in pictures of noise."""
PREFIX = "83c61"
"""Of the ids of the trials in the tutorial."""
IN_ONE_PROCESS = " --local"
"""Added to the tutorial's trainings, so that a busy machine need not start actors; all else is as the tutorial has it.
A network of half the width was tried too: the diagnosis of the tiny batch was `unexplained`."""
BUSY = "remedy: try again when the machine is less busy"
"""What Ray's own limit for its start comes to, and what a user then does."""
SAYS = {
    "epoch14 sweep schedule": r"for lr_jump, hold the learning\s+rate at 0.02 after\s+step 50",
    "epoch14 explain 00000": r"Remedy: .* Verified: a replay with it",
    "epoch14 report schedule": r"^report: schedule-report.html$",
    "epoch14 train 83c61_00000": r"^No trial fell ill(.|\n)*^model: models:/train-83c61_00000/1, step 80,",
    "epoch14 compare": r"schedule.milestones +\[50\] +\[\](.|\n)*equal to the last bit before",
    "epoch14 sweep batch_norm": r"for bn_small_batch, ",
    "epoch14 sweep preprocessing": r"for wrong_mean_std, decode and\s+normalise with per_channel",
    "epoch14 train 00000": r"^No trial fell ill",
}
"""What the tutorial's commands print, as the tutorial says."""


def ways_of(command: Command) -> list[Way]:
    """Those that match it; there must be one."""
    return [way for way in WAYS if re.fullmatch(way.pattern, command.text)]


def of_kind(kind: Kind, page: Path) -> list[Command]:
    """The page's commands that are tested so, in order."""
    return [command for command in ALL if command.page == page and ways_of(command)[0].kind == kind]


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_command_parses_and_it_is_said_how_it_is_tested(command: Command) -> None:
    """The shell and the program take it, its keys and presets exist, and one way of testing it is named."""
    parse(command)
    assert len(ways_of(command)) == 1


def test_no_way_is_left_over() -> None:
    """Each way is some command's; the test that it names is there, and what is only parsed has its reason."""
    matched = {way for command in ALL for way in ways_of(command)}
    assert [way.pattern for way in WAYS if way not in matched] == []
    for way in WAYS:
        assert bool(way.note) == (way.kind in ("test", "parsed"))
        if way.kind == "test":
            file, _, name = way.note.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), way.note
    assert {command.page for command in ALL if ways_of(command)[0].kind == "tutorial"} == {TUTORIAL}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides(page: Path) -> None:
    """Every block says what it is, commands are in those marked `sh` only, and links of a page lead somewhere."""
    programs = re.compile(r"^(epoch14|make|ray|python|export|kubectl|aws|git|cd) ", re.MULTILINE)
    for language, text in fences(page):
        assert language in ("sh", "text", "python", "yaml"), text
        assert language == "sh" or not programs.search(text), text
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_text_mentions_is_there(page: Path) -> None:
    """`epoch14 COMMAND --option` and `make target` amid the text name commands, options and targets that exist."""
    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    for mention in mentions(page):
        program, name, *rest = mention.split()
        if program == "make":
            assert name in make_targets(), mention
            continue
        title = f"epoch14 job {rest[0].split('|')[0]}" if name == "job" else f"epoch14 {name}"
        section = reference.partition(f"### `{title}`\n")[2].partition("\n### ")[0]
        assert section, mention
        assert [word for word in rest if word.startswith("--") and f"`{word}" not in section] == [], mention


@pytest.fixture
def reader(
    tiny_images: Callable[..., Path],
    s3_server: str,
    use_endpoint: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], list[str]]:
    """The words of a command, with the how-to's folders in the test's and its bucket on a local S3 server."""
    use_endpoint(s3_server)
    import boto3

    boto3.client("s3").create_bucket(Bucket="epoch14-data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPOCH14_CACHE", str(tmp_path / "cache"))
    folder = tiny_images(name="imagenet")

    def words(text: str) -> list[str]:
        return Command(IMAGENET, text.replace("/data/imagenet", str(folder))).words

    return words


def test_what_runs_as_it_stands(reader: Callable[[str], list[str]], tmp_path: Path) -> None:
    """Shards in a folder and in a bucket, their check, the doctor and a preset's config, one after the other."""
    ran = of_kind("here", IMAGENET)
    for command in ran:
        code = main(reader(command.text)[1:])
        assert code in (FOUND if "doctor" in command.text else (0,)), command
    assert {command.words[1] for command in ran} == {"shard", "doctor", "config"}
    assert (tmp_path / "doctor.html").is_file()


class NewUser:
    """Someone who types the tutorial's commands into one shell, in a folder where nothing is recorded yet."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.prefix = PREFIX
        """Of the ids of this user's first sweep."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "EPOCH14_CACHE": str(cache), "OMP_WAIT_POLICY": "passive"}

    def types(self, command: Command) -> str:
        """What the command prints, with the tutorial's id for this user's; it must end with 0."""
        text = command.text.replace(PREFIX, self.prefix)
        if command.words[1] in ("sweep", "train"):
            text += IN_ONE_PROCESS
        if command.words[1] == "ui":
            return self._opens(text)
        ended = self._runs(text)
        while ended.returncode and BUSY in ended.stderr:
            ended = self._runs(text)
        assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
        if (shown := re.search(r"^trial +(\w+)_00000 ", ended.stdout)) and self.prefix == PREFIX:
            self.prefix = shown.group(1)
        return ended.stdout.replace(self.prefix, PREFIX)

    def _runs(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", text], cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True
        )

    def _opens(self, text: str) -> str:
        """Start the UI, at a port that is free, until its page is there."""
        port = free_port()
        page = urllib.request.Request(f"http://127.0.0.1:{port}")
        command = ["bash", "-c", f"exec {text} --port {port}"]
        with subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL) as process:
            try:
                while status_of(page, timeout_s=5) != 200:
                    assert process.poll() is None
                    time.sleep(0.5)
            finally:
                process.terminate()
        return ""


@pytest.fixture
def new_user(tmp_path: Path, digits_cache: Path) -> NewUser:
    """Who has just set the tool up."""
    return NewUser(tmp_path, digits_cache)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_tutorial_from_question_to_cure(new_user: NewUser) -> None:
    """Each command, in order, ends well and says what the tutorial says: three causes, two cures, equal bits before."""
    said = set()
    for command in of_kind("tutorial", TUTORIAL):
        printed = new_user.types(command)
        for start in (start for start in SAYS if command.text.startswith(start)):
            assert re.search(SAYS[start], printed, re.MULTILINE), f"{command}\n{printed}"
            said.add(start)
    assert said == set(SAYS)

"""The choice of sessions at its edges: each reason and each format to its last word, on a table of a few rows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ci import matrix
from ci.cli import main
from ci.matrix import Choice, choose
from ci.table import EVENTS, Row, Tool
from validation.case.errors import UsageError

EVENT = ("pull_request", "merge_group", "nightly", "workflow_call")
CPU = Row("cpu", "compare", "tiny", ("tp2",), "fp64", "local", "gloo", ("ubuntu-24.04",), EVENT, 5)
GPU = replace(CPU, session="gpu", transport="nccl", runner=("self-hosted", "gpus-2"), timeout=7)
LINT = Tool("lint", "look", ("ubuntu-24.04",), EVENT, 3)
NIGHT = replace(CPU, session="night", when=("nightly",))


def said(
    changed: Sequence[str], event: str = "pull_request", rows: Sequence[Row] = (CPU, GPU, NIGHT)
) -> list[tuple[str, bool, str]]:
    return [(one.session.session, one.runs, one.why) for one in choose(event, changed, rows=rows, tools=[LINT])]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ([], "the changed files are unknown: everything runs"),
        (["a.py"], "a.py changed"),
        (["README.md", "a.py"], "a.py changed"),
        (["b.py", "README.md", "a.py", "c.py"], "b.py and 2 more changed"),
        (["a b.py", "c.py"], "a file with an unusual name and 1 more changed"),
        (["x" * 97 + ".py"], "x" * 97 + ".py changed"),
        (["x" * 98 + ".py"], "a file with an unusual name changed"),
    ],
)
def test_everything_runs_for_a_reason(changed: list[str], why: str) -> None:
    """Tools first; no session of another event. A name of a hundred characters is shown."""
    wanted = [(name, True, why) for name in ("lint", "cpu", "gpu")]
    assert said(changed) == wanted


@pytest.mark.parametrize(
    ("changed", "named"),
    [(["README.md"], "README.md"), (["docs/a.md", "docs/b.svg", "LICENSE"], "docs/a.md and 2 more")],
)
def test_documentation_alone_leaves_out_gpus_with_the_files(changed: list[str], named: str) -> None:
    assert said(changed) == [
        ("lint", True, "runs whatever changes"),
        ("cpu", True, "runs whatever changes"),
        ("gpu", False, f"only documentation changed ({named})"),
    ]


def test_where_only_tools_would_be_left_everything_runs() -> None:
    """A gate that asks for no comparison proves nothing."""
    assert said(["README.md"], rows=(GPU,)) == [
        (name, True, "everything runs: every comparison needs a GPU") for name in ("lint", "gpu")
    ]


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ("merge_group", "merge queue: everything runs"),
        ("nightly", "nightly: everything runs"),
        ("workflow_call", "asked for by the workflow's caller"),
    ],
)
def test_other_events_run_everything_whatever_changed(event: str, why: str) -> None:
    names = ["lint", "cpu", "gpu", *(["night"] if event == "nightly" else [])]
    assert said(["README.md"], event) == [(name, True, why) for name in names]


def test_an_event_that_there_is_not_is_told() -> None:
    with pytest.raises(UsageError) as raised:
        said([], "push")
    assert str(raised.value) == f"event 'push' is unknown; known are {', '.join(EVENTS)}"


@pytest.mark.parametrize(
    ("runner", "hosted"), [(("ubuntu-24.04",), True), (("ubuntu-24.04", "ubuntu-latest"), False), (("mine",), False)]
)
def test_hosted_is_one_label_of_github_s(runner: tuple[str, ...], hosted: bool) -> None:
    assert Choice(replace(CPU, runner=runner), True, "").hosted is hosted


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has these few rows."""
    monkeypatch.delenv("PLUMBLINE_NAME", raising=False)
    monkeypatch.setattr(matrix, "rows", lambda: [CPU, GPU, NIGHT])
    monkeypatch.setattr(matrix, "tools", lambda: [LINT])


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["matrix", *words]) == 0
    return capsys.readouterr().out


OF_CPU = {
    "session": "cpu",
    "runner": ["ubuntu-24.04"],
    "timeout": 5,
    "gpus": 0,
    "why": "nightly: everything runs",
    "artifact": "results-cpu",
    "missing": "error",
}
OF_LINT = {**OF_CPU, "session": "lint", "timeout": 3, "artifact": "tool-lint", "missing": "ignore"}
OF_GPU = {**OF_CPU, "session": "gpu", "runner": ["self-hosted", "gpus-2"], "timeout": 7, "gpus": 2, "artifact": "results-gpu"}
OF_NIGHT = {**OF_CPU, "session": "night", "artifact": "results-night"}


@pytest.mark.usefixtures("table")
def test_each_format_has_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON, unless another is asked for, is one line."""
    assert json.loads(printed(capsys, "--event", "nightly")) == [OF_LINT, OF_CPU, OF_GPU, OF_NIGHT]
    lines = printed(capsys, "--event", "nightly", "--format", "github").splitlines()
    assert [line.partition("=")[0] for line in lines] == ["hosted", "self-hosted", "sessions"]
    assert json.loads(lines[0].partition("=")[2]) == [OF_LINT, OF_CPU, OF_NIGHT]
    assert json.loads(lines[1].partition("=")[2]) == [OF_GPU]
    assert lines[2] == "sessions=--session cpu --session gpu --session night"
    assert printed(capsys, "--event", "nightly", "--format", "json").count("\n") == 1


@pytest.mark.usefixtures("table")
def test_the_table_of_what_runs_ends_with_what_is_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing stands there where nothing is."""
    head = "### What runs, and why\n\n| session | machine | why |\n| --- | --- | --- |\n"
    (tmp_path / "changed").write_text("README.md\n\nLICENSE\n", encoding="utf-8")
    words = ["--event", "pull_request", "--changed-files", str(tmp_path / "changed"), "--format", "markdown"]
    assert printed(capsys, *words) == (
        f"{head}| lint | ubuntu-24.04 | runs whatever changes |\n| cpu | ubuntu-24.04 | runs whatever changes |\n"
        "\nLeft out:\n\n- gpu: only documentation changed (README.md and 1 more)\n"
    )
    assert printed(capsys, "--event", "nightly", "--gpus", "--format", "markdown") == (
        f"{head}| gpu | self-hosted, gpus-2 | nightly: everything runs |\n"
    )


@pytest.mark.usefixtures("table")
def test_a_call_s_name_stands_in_front_of_its_artifacts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of comparisons and of tools."""
    monkeypatch.setenv("PLUMBLINE_NAME", "mine")
    found = json.loads(printed(capsys, "--event", "nightly", "--session", "cpu", "--session", "lint"))
    assert [one["artifact"] for one in found] == ["plumbline-mine.results-cpu", "plumbline-mine.tool-lint"]


@pytest.mark.usefixtures("table")
def test_sessions_asked_for_by_name_run_once_in_the_order_that_was_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whatever changed."""
    (tmp_path / "changed").write_text("README.md\n", encoding="utf-8")
    asked = ["--session", "gpu", "--session", "cpu", "--session", "gpu"]
    words = ["--event", "pull_request", "--changed-files", str(tmp_path / "changed"), *asked]
    found = json.loads(printed(capsys, *words))
    assert [(one["session"], one["why"]) for one in found] == [(name, "asked for by name") for name in ("gpu", "cpu")]


@pytest.mark.usefixtures("table")
def test_changed_files_come_from_standard_input_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And a name that is not UTF-8 is a name all the same; only a pull request's are asked for."""
    monkeypatch.setattr("sys.stdin", io.StringIO("a.py\n\nb.py\n"))
    found = json.loads(printed(capsys, "--event", "pull_request", "--changed-files", "-"))
    assert {one["why"] for one in found} == {"a.py and 1 more changed"}
    (tmp_path / "changed").write_bytes(b"\xff.py\n")
    found = json.loads(printed(capsys, "--event", "pull_request", "--changed-files", str(tmp_path / "changed")))
    assert {one["why"] for one in found} == {"a file with an unusual name changed"}
    assert printed(capsys, "--event", "nightly", "--changed-files", str(tmp_path / "none"))


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--session", "a", "--session", "b"], "session 'a' is none of pull_request; they are lint, cpu, gpu"),
        (
            ["--session", "cpu", "--gpus"],
            "nothing is selected for pull_request with --gpus; a matrix of nothing would be green",
        ),
        (
            ["--session", "gpu", "--no-gpus"],
            "nothing is selected for pull_request with --no-gpus; a matrix of nothing would be green",
        ),
        (
            ["--changed-files", "/absent"],
            "--changed-files /absent: No such file or directory; leave it out, and everything runs",
        ),
    ],
)
def test_a_selection_that_cannot_be_is_one_sentence(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(["matrix", "--event", "pull_request", *words]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.usefixtures("table")
def test_an_event_that_runs_nothing_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "rows", lambda: [NIGHT])
    monkeypatch.setattr(matrix, "tools", list)
    assert main(["matrix", "--event", "merge_group"]) == 2
    assert capsys.readouterr().err == "error: nothing is selected for merge_group; a matrix of nothing would be green\n"

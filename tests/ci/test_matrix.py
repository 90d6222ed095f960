"""What runs for an event, and why: nothing is left out that could change a number."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from ci.cli import main
from ci.matrix import Choice, choose
from ci.table import TABLE, rows, tools
from validation.case.errors import UsageError

ROOT = TABLE.parents[1]
DOCUMENTATION = ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "LICENSE", "docs/design.md", "docs/decisions/0001.svg"]


def chosen(event: str, *changed: str) -> dict[str, str]:
    """Session -> why it runs."""
    choices = choose(event, changed, rows=rows(TABLE), tools=tools(TABLE))
    return {choice.session.session: choice.why for choice in choices if choice.runs}


def everything(event: str) -> set[str]:
    listed: list[Choice] = choose(event, ["setup.cfg"], rows=rows(TABLE), tools=tools(TABLE))
    return {choice.session.session for choice in listed}


@pytest.mark.parametrize(
    "changed",
    [
        "validation/candidate/modules.py",
        "requirements/base.txt",
        "ci/matrix.yaml",
        "noxfile.py",
        ".github/workflows/parity.yml",
        "docs/versions.json",
        "docs/design.md/x.py",
        "tests/README.md",
        "validation/run/notes.md",
        "README.md.py",
        '"docs/\\303\\244.md"',
        "a file that nobody has thought of",
    ],
)
def test_whatever_might_change_a_number_has_everything_run(changed: str) -> None:
    assert set(chosen("pull_request", "README.md", changed)) == everything("pull_request")


def test_unknown_changes_have_everything_run_and_say_so() -> None:
    ran = chosen("pull_request")
    assert set(ran) == everything("pull_request")
    assert set(ran.values()) == {"the changed files are unknown: everything runs"}


def test_documentation_leaves_out_what_needs_gpus_and_never_all_that_is_compared() -> None:
    ran = chosen("pull_request", *DOCUMENTATION)
    assert set(ran) == {"parity", "parity_other", "lint", "docs", "tests", "tests_around"}
    of_gpus = {row.session for row in rows(TABLE) if row.gpus and "pull_request" in row.when}
    assert everything("pull_request") - set(ran) == of_gpus


def test_where_every_comparison_needs_a_gpu_documentation_leaves_out_none() -> None:
    gpus = [row for row in rows(TABLE) if row.gpus and "pull_request" in row.when]
    choices = choose("pull_request", DOCUMENTATION, rows=gpus, tools=())
    assert [choice.runs for choice in choices] == [True] * len(gpus)


def test_no_code_reads_documentation() -> None:
    """So that leaving out what needs GPUs is right: nothing that computes a number names such a file.

    The scorecard and the run of all pairs write pages, and no session of a pull request runs them. Reports link to two pages.
    """
    code = [ROOT / "noxfile.py", *(ROOT / "validation").rglob("*.py")]
    code = [path for path in code if path.parent.name not in ("scorecard", "pairwise")]
    strings = [(path.name, text) for path in code for text in texts(path) if re.fullmatch(r"\S*(\.md|\.svg|LICENSE)", text)]
    assert [(name, text) for name, text in strings if not text.startswith(LINKED)] == []


LINKED = ("docs/findings/", "words-in-failures.md")


def texts(path: Path) -> list[str]:
    """Every string of a module that is one word, which docstrings are not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("event", ["merge_group", "nightly"])
def test_the_queue_and_the_night_run_everything_whatever_changed(event: str) -> None:
    assert set(chosen(event, *DOCUMENTATION)) == everything(event)


def test_the_night_runs_more_than_a_pull_request() -> None:
    more = set(chosen("nightly")) - set(chosen("pull_request"))
    parity = {"parity_bf16", "parity_stock", "parity_moonlight", "parity_life", "parity_glm4_moe_lite", "parity_deepseek_v2"}
    parity |= {"parity_deepseek_v32", "parity_glm_moe_dsa", "parity_sparse_bf16"}
    parity |= {"parity_families_bf16", "parity_inference", "parity_inference_requests", "parity_inference_bf16", "parity_data"}
    gpu = {"packed", "fp8_delayed", "fp8_blockwise", "fp8_steps", "fp32", "local", "local_fp32", "fp64"}
    parity |= {f"gpu_{name}" for name in gpu}
    parity |= {f"gpu2_{name}" for name in ("overlap", "context", "communication", "lives")}
    parity |= {name for name in more if name.startswith("gpu_inference_")}
    more_tools = {"faults", "faults_behind_bugs", "mutants", "versions", "newest", "recipes", "recipes_other", "logprobs"}
    assert more == parity | more_tools


def test_a_reason_names_the_first_file_and_counts_the_others() -> None:
    assert chosen("pull_request", "docs/a.md", "ci/gate.py", "ci/x.py")["parity"] == "ci/gate.py and 1 more changed"


@pytest.mark.parametrize("name", ["a|b.py", "<img src=x>.py", "`x`.py", "a\u202eb.py", "x" * 200 + ".py", "$(x).py", "a b.py"])
def test_a_reason_repeats_no_name_that_could_do_harm(name: str) -> None:
    assert chosen("pull_request", name)["parity"] == "a file with an unusual name changed"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["matrix", *words]) == 0
    return capsys.readouterr().out


def test_json_is_what_a_matrix_includes(capsys: pytest.CaptureFixture[str]) -> None:
    entries = json.loads(printed(capsys, "--event", "pull_request", "--session", "gpu_tp2"))
    assert entries == [
        {
            "session": "gpu_tp2",
            "runner": ["self-hosted", "linux", "gpus-2"],
            "timeout": 30,
            "gpus": 2,
            "why": "asked for by name",
            "artifact": "results-gpu_tp2",
            "missing": "error",
        }
    ]


def test_a_tool_may_leave_no_results_and_a_comparison_may_not(capsys: pytest.CaptureFixture[str]) -> None:
    entries = json.loads(printed(capsys, "--event", "nightly"))
    compared = {row.session for row in rows(TABLE)}
    assert {entry["session"]: entry["missing"] for entry in entries} == {
        entry["session"]: "error" if entry["session"] in compared else "ignore" for entry in entries
    }
    names = [entry["artifact"] for entry in entries]
    assert len(set(names)) == len(names)


def test_gpus_and_no_gpus_are_two_halves(capsys: pytest.CaptureFixture[str]) -> None:
    both = [json.loads(printed(capsys, "--event", "nightly", half)) for half in ("--gpus", "--no-gpus")]
    assert all(entry["gpus"] for entry in both[0])
    assert not any(entry["gpus"] for entry in both[1])
    assert {entry["session"] for half in both for entry in half} == everything("nightly")


def test_lines_for_github_are_three(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.write_text("README.md\n", encoding="utf-8")
    text = printed(capsys, "--event", "pull_request", "--changed-files", str(changed), "--format", "github")
    lines = dict(line.split("=", 1) for line in text.splitlines())
    hosted = [entry["session"] for entry in json.loads(lines["hosted"])]
    assert hosted == ["lint", "docs", "tests", "tests_around", "parity_other", "parity"]
    assert (lines["self-hosted"], lines["sessions"]) == ("[]", "--session parity")


@pytest.mark.parametrize(
    ("runner", "job"),
    [
        ("ubuntu-24.04", "hosted"),
        ("ubuntu-24.04-arm", "hosted"),
        ("ubuntu-gpus", "self-hosted"),
        ("gpus-{gpus}", "self-hosted"),
        ("self-hosted", "self-hosted"),
        ("ubuntu-24.04,gpus-{gpus}", "self-hosted"),
        ("ubuntu-24.04,self-hosted", "self-hosted"),
    ],
)
def test_the_labels_say_which_job_a_session_is_in_and_not_the_transport(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runner: str, job: str
) -> None:
    """A session on the CPU of a machine of ours waits for `permit` in a fork, too."""
    monkeypatch.setenv("PLUMBLINE_LAYOUTS", "tp2")
    monkeypatch.setenv("PLUMBLINE_RUNNER", runner)
    lines = dict(line.split("=", 1) for line in printed(capsys, "--event", "workflow_call", "--format", "github").splitlines())
    assert [name for name in ("hosted", "self-hosted") if "cpu_tp2" in lines[name]] == [job]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--event", "push"], "event 'push' is unknown; known are pull_request"),
        (["--event", "pull_request", "--session", "gpu_tp3"], "session 'gpu_tp3' is none of pull_request; they are lint"),
        (["--event", "pull_request", "--session", "cpu_tp2"], "session 'cpu_tp2' is none of pull_request"),
        (["--event", "pull_request", "--session", "parity", "--gpus"], "nothing is selected for pull_request with --gpus"),
        (["--event", "workflow_call"], "nothing is selected for workflow_call"),
        (["--event", "pull_request", "--changed-files", "/absent"], "--changed-files /absent: No such file"),
    ],
)
def test_an_unknown_or_empty_selection_is_an_error(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(["matrix", *words]) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.out == ""


def test_where_all_machines_are_ones_own_no_session_is_hosted(capsys: pytest.CaptureFixture[str]) -> None:
    """GitHub Enterprise Server has no others, whatever a label says."""

    def jobs(*words: str) -> dict[str, list[str]]:
        lines = printed(capsys, "--event", "pull_request", "--format", "github", *words).splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return {name: [one["session"] for one in json.loads(found[name])] for name in ("hosted", "self-hosted")}

    usual, own = jobs(), jobs("--own-machines")
    assert usual["hosted"]
    assert own["hosted"] == []
    assert sorted(own["self-hosted"]) == sorted([*usual["hosted"], *usual["self-hosted"]])


def test_an_unknown_event_is_an_error_of_usage() -> None:
    with pytest.raises(UsageError):
        choose("push", [], rows=rows(TABLE), tools=tools(TABLE))

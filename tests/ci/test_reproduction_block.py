"""The block that reproduces a failure works from an empty folder, and holds no command of a stranger.

The blocks are run: git fetches from a repository on this machine, and the environment is a real one. That repository stands for
Plumbline: its requirements are empty, and its `validation` prints what it is started with.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ci.reproduction import Sources, command, elsewhere, ours, setup, sources
from tests.ci.runs import check, suite

COMMAND = "python -m validation run --preset tiny --layouts tp2"
ON_GITHUB = {
    "GITHUB_SERVER_URL": "https://github.example",
    "PLUMBLINE_REPOSITORY": "owner/plumbline",
    "MEGATRON_REPOSITORY": "team/megatron",
    "MEGATRON_FOLDER": "third_party/Megatron-LM",
    "MEGATRON_SPECS": "src/my specs",
}
SHA = "0123456789abcdef0123456789abcdef01234567"
STAND_IN = "import os, sys; print('ran', sys.argv[1:], os.environ.get('PYTHONPATH'), open('version').read().strip())"


def git(folder: Path, *words: str) -> str:
    """One command of git, by somebody."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, files: dict[str, str]) -> str:
    """A repository in which the files are one commit of no branch, behind the newest; its number.

    So is what GitHub tests of a pull request.
    """
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "tested")
    tested = git(folder, "rev-parse", "HEAD")
    git(folder, "update-ref", "refs/pull/7/merge", tested)
    git(folder, "commit", "--quiet", "--amend", "--allow-empty", "-m", "newest")
    return tested


def run(block: str, folder: Path) -> str:
    """What a shell prints that runs the block in an empty folder, with nothing of this environment but pip's settings."""
    (folder / "empty").mkdir()
    variables = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name in ("PATH", "HOME")}
    done = subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=folder / "empty",
        env={**variables, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((folder / "empty").iterdir()) == [], "whoever pastes it has nothing of it in the way"
    return done.stdout


def test_the_block_works_from_nothing(tmp_path: Path) -> None:
    plumbline = {"requirements/cpu.txt": "", "validation/__main__.py": STAND_IN, "version": "tested"}
    commit = repository(tmp_path / "plumbline", plumbline)
    core = repository(tmp_path / "team", {"sub/megatron/core/__init__.py": "", "src/my specs/mine.py": ""})
    tested = suite()
    made = {"commit": commit, "implementation": "mine:layers", "megatron-commit": core}
    tested = replace(tested, properties={**tested.properties, **made})
    how = f"{COMMAND} --implementation mine:layers --megatron-path /home/runner/work/megatron/sub -- -k 'a[b] and c'"
    of = Sources(f"file://{tmp_path}/plumbline", f"file://{tmp_path}/team", "sub", "src/my specs")
    said = run(f"{setup(tested, how, of)}\n{elsewhere(how)}", tmp_path)
    (where,) = [path for path in tmp_path.iterdir() if (path / "plumbline" / ".venv").exists()]
    words = ["run", "--preset", "tiny", "--layouts", "tp2", "--implementation", "mine:layers"]
    words += ["--megatron-path", f"{where}/megatron/sub", "--", "-k", "a[b] and c"]
    assert said == f"ran {words} {where}/megatron/src/my specs tested\n"
    assert "/home/runner" not in elsewhere(how)


def test_on_github_the_addresses_are_those_of_the_job() -> None:
    found = sources(ON_GITHUB)
    assert found == Sources(
        "https://github.example/owner/plumbline",
        "https://github.example/team/megatron",
        "third_party/Megatron-LM",
        "src/my specs",
    )
    assert sources({}) == Sources()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEGATRON_FOLDER", "../../etc"),
        ("MEGATRON_FOLDER", "/etc"),
        ("MEGATRON_SPECS", "a\nb"),
        ("MEGATRON_REPOSITORY", "a b/c"),
    ],
)
def test_what_is_no_folder_or_repository_is_none(name: str, value: str) -> None:
    found, of = sources({**ON_GITHUB, name: value}), sources(ON_GITHUB)
    assert found != of
    assert value not in (found.core, found.specs)
    assert value not in found.megatron


def lines(how: str = COMMAND, of: Sources | None = None, **properties: str) -> list[str]:
    """The lines before the command, for a testsuite with these properties."""
    tested = suite()
    named = {name.replace("_", "-"): value for name, value in properties.items()}
    return setup(replace(tested, properties={**tested.properties, **named}), how, of or sources(ON_GITHUB)).splitlines()


def test_a_case_on_the_cpu_of_plumblines_own_needs_one_commit_and_one_environment() -> None:
    assert lines() == [
        'cd "$(mktemp -d)"',
        "git init --quiet plumbline",
        f"git -C plumbline fetch --quiet --depth 1 https://github.example/owner/plumbline {SHA}",
        "git -C plumbline checkout --quiet FETCH_HEAD",
        "cd plumbline",
        "python3 -m venv .venv && . .venv/bin/activate",
        "python -m pip install --quiet -r requirements/cpu.txt",
    ]


@pytest.mark.parametrize("transport", ["nccl", "staged"])
def test_on_gpus_the_environment_is_that_of_gpus(transport: str) -> None:
    assert lines(transport=transport)[-1] == "python -m pip install --quiet -r requirements/cuda.txt"
    assert lines(transport=transport, implementation="te-fused")[-1].startswith(
        "python -m pip install --quiet --no-build-isolation -r requirements/te.txt"
    )
    assert lines(transport="staged-cpu")[-1].endswith("cpu.txt")


def test_what_nobody_knows_is_a_blank_with_what_to_put_there() -> None:
    said = lines(f"{COMMAND} --megatron-path /data/m", Sources(), commit="unknown", implementation="my.specs:layers")
    blanks = [line for line in said if "=...   # " in line]
    assert [line.partition("=")[0].removeprefix("export ") for line in blanks] == [
        "PLUMBLINE_REPOSITORY",
        "COMMIT",
        "MEGATRON",
        "PYTHONPATH",
    ]
    assert "the folder that holds megatron/core. It was /data/m there." in blanks[2]
    assert "the folder that my.specs is imported from" in blanks[3]
    at = lines(f"{COMMAND} --megatron-path /data/m", Sources(), megatron_commit=SHA)
    assert f"your checkout of Megatron at commit {SHA}: the folder" in "\n".join(at)


def test_plumblines_own_specs_need_no_path_and_a_dirty_tree_is_said() -> None:
    assert "PYTHONPATH" not in "\n".join(lines(implementation="tests.checks.broken_specs:reduction_lost"))
    assert "PYTHONPATH" not in "\n".join(lines(implementation="a b; rm:c", of=Sources()))
    assert lines(dirty="true")[0].startswith("# It ran with files that were changed")


@pytest.mark.parametrize("option", ["--hf-model-path", "--candidate-checkpoint", "--plugin"])
def test_what_only_the_other_machine_has_is_named(option: str) -> None:
    assert f"# Put your copy of '/data/a b' in its place: {option} names what the other machine had." in lines(
        f"{COMMAND} {option} '/data/a b'"
    )


def test_a_path_is_replaced_whole_whatever_it_holds() -> None:
    wanted = f'{COMMAND} --megatron-path "$MEGATRON" -- -k a'
    for path in ("/a", "'/a b'", "'/it'\"'\"'s'"):
        assert elsewhere(f"{COMMAND} --megatron-path {path} -- -k a") == wanted
    assert elsewhere(COMMAND) == COMMAND


def test_the_command_of_an_installed_package_is_shown_as_it_runs_in_a_checkout() -> None:
    """That is what the block makes."""
    said = "plumbline run --preset tiny --layouts tp2"
    assert ours(said) == said
    assert elsewhere(ours(f"{said} --megatron-path /a")) == f'{COMMAND} --megatron-path "$MEGATRON"'
    assert ours("plumbline faults") == ours("plumbline run; id") == ours("plumbline-ci run") == ""


@pytest.mark.parametrize(
    "said",
    [
        f"{COMMAND}; rm -rf ~",
        f"{COMMAND} $(id)",
        f"{COMMAND} `id`",
        f"{COMMAND} | sh",
        f"{COMMAND} > a",
        f"{COMMAND} & id",
        f"{COMMAND}\nid",
        f"{COMMAND} 'a\nb'",
        f'{COMMAND} "$(id)"',
        f"{COMMAND} 'a",
        f"{COMMAND} ~/a",
        f"{COMMAND} a*",
        f"{COMMAND} \\a",
        f"{COMMAND} #a",
        f"{COMMAND}  a",
        f"X=1 {COMMAND}",
        "python -m pip install a",
        "python -m validation",
        "python -m validation runs",
        f"{COMMAND} {'a' * 4000}",
        "",
    ],
)
def test_a_command_that_is_more_to_a_shell_is_none_of_ours(said: str) -> None:
    assert ours(said) == ""


def test_a_checks_command_is_its_property() -> None:
    assert command(check("Loss", "fail", reproduce=COMMAND)) == COMMAND
    assert command(check("Loss", "fail", reproduce=f"{COMMAND}; id")) == ""
    assert command(check("Loss", "fail")) == ""

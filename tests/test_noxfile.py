"""What nox offers, and what it ends with. nox runs for real; where a session would install, a stand-in answers for python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import noxfile
from ci.releases import GROUPS, LIBRARIES, NEWEST, OLDER, RELEASES, Release, groups, newest_for, other_than_for
from ci.table import rows, tools

ROOT = Path(__file__).parents[1]
PARITY = next(row for row in rows() if row.session == "parity")
OTHER = other_than_for((sys.version_info.major, sys.version_info.minor))
STAND_IN = """#!/bin/sh
echo "SAFE=$PYTHONSAFEPATH" > safe.log
case "$*" in
*"pip index versions megatron-core --python-version"*) echo "Available versions: ${OFFERED_LATER-}" ;;
*"pip index versions"*) echo "Available versions: ${OFFERED-9.9.9, 0.19.2, 0.18.2, 0.17.1, 0.16.1}" ;;
*"pip install"*) sleep "${INSTALLING:-0}"; end=${INSTALL:-0} ;;
*"-m validation"* | *"-m ci attempts"*)
    echo "$*" >> validation.log; echo "CI=$CI" > ci.log; echo "$PLUMBLINE_SESSION" > session.log
    end=${VALIDATION:-0} ;;
*"-m pytest"*) echo "$*" > pytest.log; end=${OTHERS:-0} ;;
*) end=${OTHERS:-0} ;;
esac
if [ "$end" = killed ]; then kill -9 $$; fi
exit "$end"
"""
"""Answers for the python of a session's environment: each variable is the exit code of one kind of command."""

Nox = Callable[..., subprocess.CompletedProcess[str]]


def run_nox(folder: Path, *arguments: str, codes: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Nox as a user runs it, but in the environment that the tests have."""
    plain = {"CI": "", "PLUMBLINE_PYTHON": "", "PLUMBLINE_INSTALLER": "pip", "NOX_SCRIPT_MODE": "none", "NO_COLOR": "1"}
    environment = {**os.environ, **plain, **(codes or {})}
    environment.pop("NOXSESSION", None)
    command = [sys.executable, "-m", "nox", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800, check=False)


@pytest.fixture
def nox(tmp_path: Path) -> Nox:
    """Nox in a copy of what it needs, whose environments are the stand-in."""
    shutil.copy(ROOT / "noxfile.py", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for package in ("ci", "validation/cache", "validation/case", "validation/checks", "validation/run"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "validation" / "__init__.py", tmp_path / "validation")
    python = tmp_path / ".nox" / "cpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for program in ("python", "zizmor", "shellcheck", "hadolint"):
        python.with_name(program).write_text(STAND_IN, encoding="utf-8")
        python.with_name(program).chmod(0o755)
    for packages in (tmp_path / "tests" / name for name in ("viewers", "workflows")):
        (packages / "node_modules").mkdir(parents=True)
        for name in ("package-lock.json", "node_modules/.package-lock.json"):  # all of it is there
            (packages / name).touch()

    def run(*sessions: str, **codes: str) -> subprocess.CompletedProcess[str]:
        return run_nox(tmp_path, "-s", *sessions, codes=codes)

    return run


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    """Session -> description, as nox tells them."""
    # Not from --json, which leaves out what plain `nox` would not run.
    found = re.finditer(r"^[*-] (\S+)(?: \[.*?\])?(?: -> (.*))?$", run_nox(ROOT, "-l").stdout, re.MULTILINE)
    return {entry[1]: entry[2] or "" for entry in found}


def test_every_row_of_the_table_is_a_session_that_says_what_it_does(listed: dict[str, str]) -> None:
    said = {row.session: row.does for row in rows()} | {tool.session: tool.does for tool in tools()}
    assert {name: listed.get(name, "").lower() for name in said} == {name: does.lower() for name, does in said.items()}


def test_every_session_for_a_layout_comes_from_the_table(listed: dict[str, str]) -> None:
    assert set(listed) - {row.session for row in rows()} == {tool.session for tool in tools()} | {"benchmarks"}


def test_every_session_has_a_description_of_one_line(listed: dict[str, str]) -> None:
    assert listed
    assert [name for name, text in listed.items() if not text] == []


def test_nox_alone_runs_parity_and_the_tests() -> None:
    lines = run_nox(ROOT, "-l").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("* ")] == ["parity", "tests"]


def test_every_test_module_is_run_by_exactly_one_of_the_two_sessions(nox: Nox, tmp_path: Path) -> None:
    """Pytest itself says which modules it would import for the commands of the sessions."""
    found = {}
    for session in ("tests", "tests_around"):
        assert nox(session).returncode == 0
        words = (tmp_path / "pytest.log").read_text(encoding="utf-8").split()
        found[session] = modules_of(words[words.index("pytest") + 1 : words.index("-n")])
    there = {str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in file.parts}
    assert len(there) > 100
    assert sorted(found["tests"] + found["tests_around"]) == sorted(there)
    assert "tests/test_noxfile.py" in found["tests"]
    assert "tests/docs/test_readme.py" in found["tests_around"]


def modules_of(words: list[str]) -> list[str]:
    """The test modules that pytest would collect for these words; it imports none of them."""
    listing = """if True:
        import pytest, sys
        class Listed(pytest.Module):
            def collect(self):
                print("module", self.path)
                return []
        class Plugin:
            def pytest_pycollect_makemodule(self, module_path, parent):
                return Listed.from_parent(parent, path=module_path)
        pytest.main(["--collect-only", "-p", "no:cacheprovider", "-s", "--noconftest", *sys.argv[1:]], plugins=[Plugin()])
    """
    command = [sys.executable, "-c", listing, *words]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=True).stdout
    lines = (line.partition(" ") for line in told.splitlines())
    return [str(Path(path).relative_to(ROOT)) for word, _, path in lines if word == "module"]


def test_a_session_runs_the_command_of_its_row_with_what_the_user_adds(nox: Nox, tmp_path: Path) -> None:
    ended = nox("cpu_tp2", "--", "--seed", "7")
    assert ended.returncode == 0, ended.stderr
    row = next(row for row in rows() if row.session == "cpu_tp2")
    expected = ["-m", "validation", *row.arguments(), "--seed", "7"]
    assert (tmp_path / "validation.log").read_text(encoding="utf-8").split() == expected
    assert (tmp_path / "session.log").read_text(encoding="utf-8") == "cpu_tp2\n", "it stands in the results' class names"


def test_a_session_of_nodes_submits_a_job_and_without_slurm_ends_with_3(nox: Nox, tmp_path: Path) -> None:
    """Where there is an sbatch, the words of the row and of the user stand behind those of the job."""
    row = next(row for row in rows() if row.session == "slurm_tp2")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh"):
        (tools / name).symlink_to(str(shutil.which(name)))
    without = nox("slurm_tp2", PATH=str(tools))
    assert without.returncode == 3
    assert "no sbatch on this machine, and slurm_tp2 is a job of Slurm; run it on a login node" in without.stderr
    (tools / "sbatch").symlink_to(str(shutil.which("sh")))
    ended = nox("slurm_tp2", "--", "--seed", "7", PATH=f"{tools}:{os.environ['PATH']}")
    assert ended.returncode == 0, ended.stderr
    words = ["slurm", "run", "--nodes", "2", "--", *row.arguments()[1:], "--seed", "7"]
    assert (tmp_path / "validation.log").read_text(encoding="utf-8").split() == ["-m", "validation", *words]


def test_a_session_in_ci_lets_the_comparison_know(nox: Nox, tmp_path: Path) -> None:
    """Which then tests itself, too, and is tried again where the infrastructure breaks."""
    assert nox("parity", CI="true").returncode == 0
    assert (tmp_path / "ci.log").read_text(encoding="utf-8") == "CI=true\n"
    ran = (tmp_path / "validation.log").read_text(encoding="utf-8")
    assert ran.startswith("-m ci attempts --up-to 2 -- run --preset tiny ")
    assert "self-test" not in ran


def test_a_session_finds_our_packages_where_python_does_not_look_in_the_working_folder(nox: Nox, tmp_path: Path) -> None:
    """PYTHONSAFEPATH would end `python -m validation` with "No module named validation"."""
    assert nox("cpu_tp2", PYTHONSAFEPATH="1", PYTHONPATH=str(tmp_path)).returncode == 0
    assert (tmp_path / "safe.log").read_text(encoding="utf-8") == "SAFE=\n"


@pytest.mark.parametrize(
    ("words", "builder", "place"),
    [((), "html", "site/html/index.html"), (("--", "--links"), "linkcheck", "site/links/output.txt")],
)
def test_the_site_is_built_or_its_links_are_asked_for_and_a_warning_ends_with_1(
    nox: Nox, tmp_path: Path, words: tuple[str, ...], builder: str, place: str
) -> None:
    shutil.copytree(tmp_path / ".nox" / "cpu", tmp_path / ".nox" / "docs")
    ended = nox("docs", *words)
    assert ended.returncode == 0, ended.stderr
    assert "pip install --quiet -r requirements/docs.txt" in ended.stderr
    assert f"-m sphinx --builder {builder} --fresh-env --fail-on-warning" in ended.stderr
    assert ended.stderr.count(place) == 1
    assert nox("docs", *words, OTHERS="2").returncode == 1


@pytest.mark.skipif(
    Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None,
    reason="there is an NVIDIA driver, so a GPU session goes on to install",
)
@pytest.mark.parametrize(
    ("session", "words", "needed", "instead"),
    [
        ("gpu_tp2pp2", [], "4 GPUs", "cpu_tp2pp2 compares the same layout on the CPU"),
        ("gpu_mtp", [], "2 GPUs", "parity compares in fp64 on the CPU"),
        ("gpu_tp2pp2", ["--", "--seed", "7", "--share-gpu=2"], "2 GPUs with --share-gpu 2", "cpu_tp2pp2"),
    ],
)
def test_a_gpu_session_where_there_is_no_gpu_ends_with_3_and_says_what_works(
    nox: Nox, tmp_path: Path, session: str, words: list[str], needed: str, instead: str
) -> None:
    ended = nox(session, *words)
    assert ended.returncode == 3
    assert f"no NVIDIA driver on this machine, and {session} needs {needed}; {instead}" in ended.stderr
    assert f"Session {session} aborted" in ended.stderr
    assert not (tmp_path / ".nox" / "cuda").exists()


def test_every_layout_of_a_gpu_session_has_one_on_the_cpu() -> None:
    """Which is what a machine without GPUs is told of."""
    there = {row.session for row in rows()}
    each = [row.session for row in rows() if row.gpus and row.session == f"gpu_{row.layouts[0]}"]
    assert len(each) >= 8
    assert {name.replace("gpu_", "cpu_") for name in each} <= there


@pytest.mark.parametrize(
    ("gpus", "words", "needed"),
    [
        (2, ["--share-gpu", "2"], "1 GPU with --share-gpu 2"),
        (4, ["--seed", "7", "--share-gpu=2"], "2 GPUs with --share-gpu 2"),
        (4, ["--share-gpu", "3"], "2 GPUs with --share-gpu 3"),
        (2, ["--share-gpu", "1"], "2 GPUs"),
        (1, ["--share-gpu", "2"], "1 GPU"),
    ],
)
def test_ranks_that_share_need_fewer_gpus(gpus: int, words: list[str], needed: str) -> None:
    assert noxfile._needed(gpus, words) == needed


def stand_in(folder: Path, release: Release) -> None:
    """An environment of a release that answers as the one that is there does."""
    python = folder / ".nox" / release.name / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(folder / ".nox" / "cpu" / "bin" / "python", python)


@pytest.mark.parametrize("code", ["0", "1", "4"])
def test_versions_runs_everything_with_every_release_whatever_comes_of_it(nox: Nox, tmp_path: Path, code: str) -> None:
    """What a release computes wrong or refuses is the outcome, and not a failure of the session."""
    for release in (*RELEASES, *LIBRARIES):
        stand_in(tmp_path, release)
    ended = nox("versions", VALIDATION=code)
    assert ended.returncode == 0, ended.stderr
    ran = (tmp_path / "validation.log").read_text(encoding="utf-8").splitlines()
    results = Path("results") / "versions"
    wanted = [group.arguments(release, results) for release in (*RELEASES, *LIBRARIES) for group in groups(release)]
    assert [line.split()[2:] for line in ran] == [" ".join(words).split() for words in wanted]
    assert [release.name for release in LIBRARIES if not (tmp_path / ".nox" / release.name).exists()] == [
        release.name for release in LIBRARIES if release.torch
    ], "each torch takes gigabytes"
    assert "pip install --quiet transformers==5.17.0" in ended.stderr
    assert "pip install --quiet torch==2.14.1" in ended.stderr


def test_versions_ends_with_2_where_a_command_is_wrong(nox: Nox, tmp_path: Path) -> None:
    stand_in(tmp_path, RELEASES[0])
    assert nox("versions", VALIDATION="2").returncode == 2


def test_versions_runs_the_releases_that_are_named(nox: Nox, tmp_path: Path) -> None:
    stand_in(tmp_path, RELEASES[0])
    assert nox("versions", "--", RELEASES[0].name).returncode == 0
    assert len((tmp_path / "validation.log").read_text(encoding="utf-8").splitlines()) == len(GROUPS)


@pytest.mark.parametrize("code", [0, 1])
def test_faults_runs_the_catalogue_and_ends_with_its_code(nox: Nox, tmp_path: Path, code: int) -> None:
    assert nox("faults", "--", "--only", "A", VALIDATION=str(code)).returncode == code
    assert (tmp_path / "validation.log").read_text(encoding="utf-8").split() == ["-m", "validation", "faults", "--only", "A"]


@pytest.mark.parametrize("code", [0, 1, 2, 4])
def test_mutants_takes_modules_and_ends_with_its_code(nox: Nox, code: int) -> None:
    ended = nox("mutants", "--", "ci/gate.py", OTHERS=str(code))
    assert ended.returncode == code
    assert "python -m tests.mutants ci/gate.py" in ended.stderr
    assert "-r requirements/mutants.txt" in ended.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_faults_behind_bugs_runs_the_catalogue_beside_every_bug(nox: Nox, tmp_path: Path, code: int) -> None:
    assert nox("faults_behind_bugs", "--", "--only", "A", VALIDATION=str(code)).returncode == code
    words = (tmp_path / "validation.log").read_text(encoding="utf-8").split()
    assert words == ["-m", "validation", "faults", "--behind", "all", "--only", "A"]


@pytest.mark.parametrize("code", [0, 1, 4])
def test_parity_other_compares_the_release_that_this_python_is_not_given(nox: Nox, tmp_path: Path, code: int) -> None:
    stand_in(tmp_path, OTHER)
    ended = nox("parity_other", VALIDATION=str(code))
    assert ended.returncode == code
    assert f"megatron-core {OTHER.megatron_core}" in ended.stderr
    ran = (tmp_path / "validation.log").read_text(encoding="utf-8").split()
    assert ran == ["-m", "validation", *PARITY.arguments(), "--results", f"results/{OTHER.name}"]
    tests = tmp_path / "pytest.log"
    assert tests.exists() is (code == 0)
    if code == 0:
        files = tests.read_text(encoding="utf-8").split()[3:]
        assert files == ["tests/families/test_sparse_attention.py", "tests/convert/test_trained_by_megatron_lm.py"]
        assert all((ROOT / file).is_file() for file in files)


@pytest.mark.parametrize("code", [0, 1])
def test_recipes_other_runs_all_pairs_with_the_release_that_this_python_is_not_given(
    nox: Nox, tmp_path: Path, code: int
) -> None:
    stand_in(tmp_path, OTHER)
    ended = nox("recipes_other", "--", "--write", VALIDATION=str(code))
    assert ended.returncode == code
    assert f"megatron-core=={OTHER.megatron_core}" in ended.stderr
    assert "-r requirements/recipes.txt" in ended.stderr
    ran = (tmp_path / "validation.log").read_text(encoding="utf-8").split()
    assert ran == ["-m", "validation", "pairs", "--results", f"results/{OTHER.name}/pairs", "--write"]


@pytest.mark.parametrize(("minor", "own", "other"), [(11, OLDER, NEWEST), (12, NEWEST, OLDER), (14, NEWEST, OLDER)])
def test_parity_and_parity_other_are_both_releases_that_requirements_name(minor: int, own: Release, other: Release) -> None:
    assert (newest_for((3, minor)), other_than_for((3, minor))) == (own, other)


def test_a_release_for_younger_pythons_is_installed_as_they_would_get_it(nox: Nox, tmp_path: Path) -> None:
    """A release that pip offers here is installed as usual; for another pip is told of the first Python that has it."""
    stand_in(tmp_path, OTHER)
    mine = nox("parity_other", OFFERED=f"9.9.9, {OTHER.megatron_core}").stderr
    assert f"pip install --quiet --no-deps megatron-core=={OTHER.megatron_core}" in mine
    version = f"--python-version 3.{sys.version_info.minor + 1} megatron-core=={OTHER.megatron_core}"
    foreign = nox("parity_other", OFFERED="0.1.0", OFFERED_LATER=OTHER.megatron_core).stderr
    assert version in foreign
    assert "--target" in foreign


def test_newest_without_any_release_says_what_to_ask_pip(nox: Nox, tmp_path: Path) -> None:
    newest_stand_in(tmp_path)
    ended = nox("newest", OFFERED="")
    assert ended.returncode == 4
    assert "`pip index versions megatron-core` says why" in ended.stderr
    assert not (tmp_path / "validation.log").exists()


def newest_stand_in(folder: Path) -> None:
    python = folder / ".nox" / "newest" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(folder / ".nox" / "cpu" / "bin" / "python", python)


@pytest.mark.parametrize("code", [0, 1])
def test_newest_is_red_where_the_newest_releases_compute_something_else(nox: Nox, tmp_path: Path, code: int) -> None:
    newest_stand_in(tmp_path)
    ended = nox("newest", VALIDATION=str(code))
    assert ended.returncode == code
    assert "megatron-core 9.9.9" in ended.stderr
    ran = (tmp_path / "validation.log").read_text(encoding="utf-8").split()
    assert ran == ["-m", "validation", *PARITY.arguments(), "--results", "results/newest"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not here")
@pytest.mark.parametrize("folder", ["viewers", "workflows"])
def test_tests_install_packages_of_npm_s_that_are_not_there(nox: Nox, tmp_path: Path, folder: str) -> None:
    """Here npm finds an empty lock file, and says so."""
    (tmp_path / "tests" / folder / "node_modules" / ".package-lock.json").unlink()
    ended = nox("tests")
    assert f"npm ci --prefix tests/{folder} --ignore-scripts" in ended.stderr
    assert ended.returncode == 4


def test_a_prepared_python_is_taken_as_it_is(nox: Nox, tmp_path: Path) -> None:
    """Nothing is installed, which would fail here, and no environment is made; the exit code is the comparison's."""
    shutil.move(tmp_path / ".nox" / "cpu" / "bin" / "python", tmp_path / "prepared")
    shutil.rmtree(tmp_path / ".nox")
    ended = nox("cpu_tp2", PLUMBLINE_PYTHON=str(tmp_path / "prepared"), INSTALL="1", VALIDATION="1")
    assert ended.returncode == 1, ended.stderr
    assert "takes" in ended.stderr
    assert "--layouts tp2" in (tmp_path / "validation.log").read_text(encoding="utf-8")
    assert not (tmp_path / ".nox").exists()


def test_a_prepared_python_serves_gpu_sessions(nox: Nox, tmp_path: Path) -> None:
    """With a driver, which a stand-in for nvidia-smi is enough for."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").symlink_to("/bin/true")
    shutil.move(tmp_path / ".nox" / "cpu" / "bin" / "python", tmp_path / "prepared")
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    ended = nox("gpu_tp2", "--", "--share-gpu", "2", PLUMBLINE_PYTHON=str(tmp_path / "prepared"), INSTALL="1", PATH=path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "validation.log").read_text(encoding="utf-8").split()[-2:] == ["--share-gpu", "2"]
    assert not (tmp_path / ".nox" / "cuda").exists()


def test_a_prepared_python_that_is_not_there_ends_with_3(nox: Nox) -> None:
    ended = nox("cpu_tp2", PLUMBLINE_PYTHON="/nowhere/python")
    assert ended.returncode == 3
    assert "PLUMBLINE_PYTHON is /nowhere/python, which is no program here" in ended.stderr


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_nox_ends_with_the_exit_code_of_the_comparison(nox: Nox, code: int) -> None:
    ended = nox("cpu_tp2", VALIDATION=str(code))
    assert ended.returncode == code
    assert f"Session cpu_tp2 {'failed' if code else 'was successful'}" in ended.stderr


@pytest.mark.parametrize(
    ("sessions", "codes", "expected"),
    [
        pytest.param(["cpu_tp2"], {"VALIDATION": "killed"}, 4, id="a comparison that was killed broke"),
        pytest.param(["cpu_tp2"], {"VALIDATION": "137"}, 4, id="a comparison that was killed in a shell broke"),
        pytest.param(["cpu_tp2"], {"INSTALL": "1"}, 4, id="an install that failed is no wrong number"),
        pytest.param(["tests"], {"OTHERS": "2"}, 1, id="tests that failed are a failure"),
        pytest.param(
            ["cpu_tp2", "lint"], {"VALIDATION": "4", "OTHERS": "1"}, 1, id="a failure after a broken run outweighs it"
        ),
        pytest.param(
            ["lint", "cpu_tp2"], {"VALIDATION": "4", "OTHERS": "1"}, 1, id="a failure before a broken run outweighs it"
        ),
        pytest.param(["lint", "cpu_tp2"], {"VALIDATION": "4"}, 4, id="a success does not hide a broken run"),
    ],
)
def test_only_a_broken_run_may_be_tried_again(nox: Nox, sessions: list[str], codes: dict[str, str], expected: int) -> None:
    assert nox(*sessions, **codes).returncode == expected


@pytest.mark.parametrize("session", ["cpu_tp2", "gpu_tp2"])
def test_a_session_that_ends_before_it_compares_leaves_no_results_of_an_earlier_one(
    nox: Nox, tmp_path: Path, session: str
) -> None:
    """No package index, no driver: exit codes 4 and 3, and no file that a gate would take for the session's."""
    mine = {"cpu_tp2": "tiny-tp2-fp64-local-gloo.xml", "gpu_tp2": "mini-tp2-bf16-te-nccl.xml"}[session]
    results = tmp_path / "results"
    results.mkdir()
    for name in (mine, "tiny-pp2-fp64-local-gloo.xml"):
        (results / name).write_text('<testsuite name="a" tests="7">')
    if session == "gpu_tp2" and (Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None):
        pytest.skip("there is an NVIDIA driver, so a GPU session goes on to install")
    ended = nox(session, INSTALL="1")
    assert ended.returncode == {"cpu_tp2": 4, "gpu_tp2": 3}[session]
    assert sorted(str(path.relative_to(results)) for path in results.rglob("*.xml")) == sorted(
        [f"before/{mine}", "tiny-pp2-fp64-local-gloo.xml"]
    )
    assert f"Kept from before, for this run has not started: results/before/{mine} (7 checks)" in ended.stderr


def test_an_installation_is_not_silent_for_five_seconds(nox: Nox) -> None:
    """Where there is no terminal in which pip shows its own progress."""
    done = nox("parity", INSTALLING="9")
    assert re.findall(r"pip install: (\d+) s \.\.\.", done.stdout + done.stderr) == ["4", "8"]


UV = """#!/bin/sh
[ "$1" = pip ] || exit 0  # nox itself asks for the version
echo "$*" > "$UV_LOG"
echo "CERT=$SSL_CERT_FILE" >> "$UV_LOG"
exit "${UV:-0}"
"""
PIP = """#!/bin/sh
case "$*" in
"-m pip config list") printf '%s' "$LISTED" ;;
*"pip install"*) echo "$*" > pip.log ;;
esac
"""


@pytest.fixture
def nox_with_uv(nox: Nox, tmp_path: Path) -> Nox:
    """The same where uv is installed, and pip is set up as $LISTED says."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(UV, encoding="utf-8")
    (tools / "uv").chmod(0o755)
    (tmp_path / ".nox" / "cpu" / "bin" / "python").write_text(PIP, encoding="utf-8")
    paths = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "UV_LOG": str(tmp_path / "uv.log")}

    def run(*sessions: str, **codes: str) -> subprocess.CompletedProcess[str]:
        return nox(*sessions, **{"PLUMBLINE_INSTALLER": "", **paths, **codes})

    return run


def test_uv_installs_where_it_is_with_the_settings_of_pip(nox_with_uv: Nox, tmp_path: Path) -> None:
    listed = "global.extra-index-url='https://a https://b'\n:env:.cert='/etc/ca.crt'\n"
    done = nox_with_uv("cpu_tp2", LISTED=listed)
    assert done.returncode == 0, done.stderr
    words, cert = (tmp_path / "uv.log").read_text(encoding="utf-8").splitlines()
    assert words.startswith("pip install --python .nox/cpu/bin/python ")
    assert words.endswith("--index-strategy unsafe-best-match --index https://a --index https://b -r requirements/cpu.txt")
    assert cert == "CERT=/etc/ca.crt"
    assert not (tmp_path / "pip.log").exists()


def test_pip_installs_if_uv_has_no_equal_of_a_setting(nox_with_uv: Nox, tmp_path: Path) -> None:
    done = nox_with_uv("cpu_tp2", LISTED="global.proxy='http://a'\n")
    assert done.returncode == 0, done.stderr
    assert "pip installs, though uv is here: uv has no equal of pip's setting proxy" in done.stderr
    assert (tmp_path / "pip.log").exists()
    assert not (tmp_path / "uv.log").exists()


def test_pip_installs_if_uv_cannot(nox_with_uv: Nox, tmp_path: Path) -> None:
    done = nox_with_uv("cpu_tp2", UV="2")
    assert done.returncode == 0, done.stderr
    assert "uv could not install it: pip tries" in done.stderr
    assert "-r requirements/cpu.txt" in (tmp_path / "pip.log").read_text(encoding="utf-8")


def test_pip_installs_if_that_is_wanted(nox_with_uv: Nox, tmp_path: Path) -> None:
    assert nox_with_uv("cpu_tp2", PLUMBLINE_INSTALLER="pip").returncode == 0
    assert (tmp_path / "pip.log").exists()
    assert not (tmp_path / "uv.log").exists()


def test_what_sees_other_packages_is_left_to_pip(nox_with_uv: Nox, tmp_path: Path) -> None:
    """A GPU environment sees the machine's torch; uv would install another."""
    (tmp_path / "tools" / "nvidia-smi").symlink_to("/bin/true")
    python = tmp_path / ".nox" / "cuda" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(tmp_path / ".nox" / "cpu" / "bin" / "python", python)
    assert nox_with_uv("gpu_single").returncode == 0
    assert "-r requirements/cuda.txt" in (tmp_path / "pip.log").read_text(encoding="utf-8")
    assert not (tmp_path / "uv.log").exists()


@pytest.fixture
def on_a_gpu(nox: Nox, tmp_path: Path) -> Nox:
    """Nox on a machine that has a driver, with an environment for GPU sessions which has no Transformer Engine yet."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").symlink_to("/bin/true")
    python = tmp_path / ".nox" / "cuda" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(CUDA_STAND_IN, encoding="utf-8")
    python.chmod(0o755)

    def run(*sessions: str, **codes: str) -> subprocess.CompletedProcess[str]:
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        return nox(*sessions, PATH=path, PLUMBLINE_WHEELS=str(tmp_path / "wheels"), **codes)

    return run


CUDA_STAND_IN = """#!/bin/sh
echo "$*" >> cuda.log
case "$*" in
*"pip show"* | *find_spec*) exit "${THERE:-1}" ;;
*importlib.metadata*) echo 2.11.0+cu130 ;;
*"pip wheel"*)
    [ "${WHEEL:-0}" = 0 ] || exit "$WHEEL"
    while [ "$1" != --wheel-dir ]; do shift; done
    mkdir -p "$2" && touch "$2/transformer_engine_torch-$(sed -n 's/^transformer-engine.*==//p' requirements/te.txt)-cp.whl" ;;
esac
"""


def test_transformer_engine_is_compiled_once_for_a_torch(on_a_gpu: Nox, tmp_path: Path) -> None:
    """The first session keeps the wheel, and says how long it took; the second takes it."""
    first = on_a_gpu("gpu_tp2")
    assert first.returncode == 0, first.stderr
    assert re.search(r"compiled in \d+ s; later sessions take it from .*/wheels/torch-2\.11\.0\+cu130-", first.stderr)
    (kept,) = (tmp_path / "wheels").glob("torch-2.11.0+cu130-*/*")
    ran = (tmp_path / "cuda.log").read_text(encoding="utf-8").splitlines()
    install = f"-m pip install --quiet --no-build-isolation --find-links {kept.parent} -r requirements/te.txt"
    assert ran[-2:] == [install, next(line for line in ran if line.startswith("-m validation run"))]
    (tmp_path / "cuda.log").unlink()
    assert on_a_gpu("gpu_tp2").returncode == 0
    ran = (tmp_path / "cuda.log").read_text(encoding="utf-8").splitlines()
    assert install in ran
    assert not [line for line in ran if "pip wheel" in line]


@pytest.mark.parametrize(("session", "there"), [("gpu_tp2", "0"), ("gpu_local", "1")])
def test_transformer_engine_is_left_alone_where_it_is_or_is_not_needed(
    on_a_gpu: Nox, tmp_path: Path, session: str, there: str
) -> None:
    assert on_a_gpu(session, THERE=there).returncode == 0
    assert "te.txt" not in (tmp_path / "cuda.log").read_text(encoding="utf-8")


def test_transformer_engine_that_cannot_be_compiled_ends_with_4_and_says_what_it_needs(on_a_gpu: Nox, tmp_path: Path) -> None:
    ended = on_a_gpu("gpu_tp2", WHEEL="1")
    assert ended.returncode == 4
    assert "it needs a C++ compiler and the headers of CUDA" in ended.stderr
    assert not list((tmp_path / "wheels").glob("*/*.whl"))

"""Which checks a case has is decided by Plumbline: nothing that surrounds them leaves one out, or it is refused."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ci.expected import Manifest, load
from tests.checks.conftest import ROOT
from validation.case.surroundings import intruder, stranger_of_warnings

SESSION = ("run", "-v", "--layouts", "tp2", "--set", "num_layers=2", "--self-test")
PLUGIN = (Path(__file__).with_name("narrowing.py")).read_text()
SELECT = "-k 'weights and not router'"
INI = f"[pytest]\naddopts = {SELECT}\npython_functions = test_weight*\ncollect_ignore = test_mla.py\n"
TOML = '[pytest]\naddopts = ["-k", "weights"]\npython_functions = ["test_weight*"]\n'
FILES = {
    "pytest.ini": INI,
    ".pytest.ini": INI,
    "tox.ini": INI,
    "setup.cfg": INI.replace("[pytest]", "[tool:pytest]"),
    "pyproject.toml": f'[tool.pytest.ini_options]\naddopts = "{SELECT}"\npython_files = "test_weights.py"\n',
    "pytest.toml": TOML,
    ".pytest.toml": TOML,
    "conftest.py": PLUGIN + "collect_ignore_glob = ['*_m*']\npytest_plugins = ['narrowing']\n",
}
"""What pytest would read, in every folder from the checks up."""


def copied(folder: Path) -> Path:
    """A tree with what a manifest needs."""
    for name in ("ci", "validation", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def listed(tree: Path, variables: Mapping[str, str] | None = None, switches: tuple[str, ...] = ()) -> Manifest:
    """The manifest of a session, made in that tree."""
    path = tree.parent / "manifest.json"
    path.unlink(missing_ok=True)
    done = started(tree, [*SESSION, "--manifest", str(path)], variables, switches)
    assert (done.returncode, done.stderr) == (0, "")
    return load(path)


def started(
    tree: Path, words: list[str], variables: Mapping[str, str] | None = None, switches: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """`python -m validation` there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, *switches, "-m", "validation", *words],
        cwd=tree,
        env={**environment, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """What is listed where nothing is around."""
    return listed(copied(tmp_path_factory.mktemp("plain") / "a" / "tree"))


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with a plugin of pytest, as an installed package has it."""
    folder = tmp_path / "plugins"
    about = folder / "narrowing-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "narrowing.py").write_text(PLUGIN)
    (about / "entry_points.txt").write_text("[pytest11]\nnarrowing = narrowing\n")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: narrowing\nVersion: 1.0\n")
    return folder


def test_no_file_that_pytest_reads_changes_which_checks_there_are(tmp_path: Path, plugins: Path, plain: Manifest) -> None:
    """Configuration and conftest.py beside the checks, above them, at the root and above the repository, all at once."""
    tree = copied(tmp_path / "a" / "tree")
    for folder in (tree / "validation" / "checks", tree / "validation", tree, tree.parent):
        for name, text in FILES.items():
            if not (folder / name).exists():
                (folder / name).write_text(text)
    assert listed(tree, {"PYTHONPATH": str(plugins)}).suites == plain.suites


@pytest.mark.parametrize("name", FILES)
def test_each_of_these_files_would_narrow_pytest_itself(name: str, tmp_path: Path, plugins: Path) -> None:
    """The test above closes doors that are open."""
    for number in (1, 2):
        (tmp_path / f"test_{number}.py").write_text("def test_one(): pass\ndef test_mla(): pass\n")
    (tmp_path / name).write_text(FILES[name])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(plugins)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert "::test_" not in done.stdout


VARIABLES = {
    "PYTEST_ADDOPTS": f"{SELECT} -p narrowing --deselect validation/checks/test_run.py --ignore-glob=*mla* -x --maxfail=1",
    "PYTEST_PLUGINS": "narrowing",
    "PYTHONOPTIMIZE": "1",
    "PYTHONINSPECT": "1",
    "PYTHONSTARTUP": "narrowing.py",
    "PYTHONWARNINGS": "ignore",
    "PYTHONBREAKPOINT": "narrowing.none",
}


def test_no_variable_and_no_switch_changes_which_checks_there_are(tmp_path: Path, plugins: Path, plain: Manifest) -> None:
    """Options and plugins by variable, a plugin by entry point, and what Python itself is told."""
    tree = copied(tmp_path / "a" / "tree")
    variables = {**VARIABLES, "PYTHONPATH": str(plugins)}
    assert listed(tree, variables, ("-OO",)).suites == plain.suites
    assert listed(tree, {"PYTHONPATH": str(plugins), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""}).suites == plain.suites


@pytest.mark.parametrize("words", [("-p", "narrowing"), ("-k", "weights"), ("--deselect", "validation/checks/test_run.py")])
def test_a_manifest_that_is_narrowed_all_the_same_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    """The second count, which knows nothing of pytest, says what was not collected."""
    path = tmp_path / "manifest.json"
    variables = {"PYTHONPATH": str(Path(__file__).parent)}
    done = started(ROOT, [*SESSION, "--manifest", str(path), "--", *words], variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: tiny-tp2-fp64-local-gloo: ")
    assert " not collected: Every rank finishes (run)" in done.stderr
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "on_path"),
    [
        *(
            (name, True)
            for name in ("sitecustomize.py", "usercustomize.py", "dataclasses.py", "pytest.py", "_pytest/__init__.py")
        ),
        *(
            (name, False)
            for name in ("pytest.py", "torch.py", "yaml/__init__.py", "dataclasses.py", "attr.py", "megatron/core/a.py")
        ),
    ],
)
def test_a_file_that_would_run_in_the_place_of_what_is_installed_is_refused(name: str, on_path: bool, tmp_path: Path) -> None:
    """On PYTHONPATH, or at the root; before a line of it changes anything but what Python itself runs."""
    tree = copied(tmp_path / "a" / "tree")
    place = (tmp_path / "path" if on_path else tree) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("import os\nos.environ['PYTEST_ADDOPTS'] = '-k weights'\n")
    for command in ("validation", "ci"):
        done = subprocess.run(
            [sys.executable, "-m", command, "--help"],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "path")},
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        start = f"error: {str(place).removesuffix('/core/a.py')} "
        assert done.stderr.startswith(start), done.stderr
        assert done.stderr.count("\n") == 1


def test_what_a_user_may_have_around_is_not_refused(tmp_path: Path) -> None:
    """A spec's folder on PYTHONPATH, with a Megatron beside it, modules of no name of ours, and installed packages."""
    for name in ("megatron/core/__init__.py", "my_spec.py", "utils.py", "tests/__init__.py", "conftest.py", "torch/readme.md"):
        (tmp_path / "spec" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "spec" / name).touch()
    (tmp_path / "site" / "torch-9.9.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "torch").mkdir()
    (tmp_path / "site" / "torch" / "__init__.py").touch()
    for before in ([str(ROOT), str(tmp_path / "spec"), str(tmp_path / "none")], ["", str(tmp_path / "site")], [str(ROOT)] * 2):
        assert intruder([*before, *(folder for folder in sys.path if folder not in ("", str(ROOT)))]) == ""


@pytest.mark.parametrize("room", ["ci", "validation"])
def test_no_verdict_depends_on_an_assertion(room: str) -> None:
    """`python -O` leaves assertions out."""
    for path in sorted((ROOT / room).rglob("*.py")):
        found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
        assert found == [], path
        assert "__debug__" not in path.read_text()


@pytest.mark.parametrize("words", [["run", "--results", "out"], ["run", "--layouts", "tp2", "--results=out"]], ids=str)
def test_a_refused_run_leaves_no_old_report_in_its_place(tmp_path: Path, words: list[str]) -> None:
    """It ends before it knows which reports are its own, so all of them go where no gate looks."""
    tree, results = copied(tmp_path / "tree"), tmp_path / "tree" / "out"
    results.mkdir()
    (results / "tiny-tp2.xml").write_text("an old report")
    (results / "notes.txt").write_text("mine")
    (tmp_path / "sitecustomize.py").write_text("")
    assert started(tree, words, {"PYTHONPATH": str(tmp_path)}).returncode == 2
    assert (results / "before" / "tiny-tp2.xml").read_text() == "an old report"
    assert sorted(path.name for path in results.iterdir()) == ["before", "notes.txt"]


def test_a_warnings_option_that_runs_a_module_of_a_strangers_is_refused(tmp_path: Path) -> None:
    """Python imports the category's module before Plumbline; one that is installed is trusted."""
    tree = copied(tmp_path / "tree")
    (tmp_path / "quiet.py").write_text("class W(Warning):\n    pass\n")
    done = started(tree, ["run"], {"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore::quiet.W"})
    assert done.returncode == 2
    assert f"has Python run {tmp_path / 'quiet.py'} before Plumbline" in done.stderr
    assert stranger_of_warnings(["ignore::quiet.W"], [str(tmp_path)])
    assert not stranger_of_warnings(["error", "ignore::DeprecationWarning", "ignore::pytest.PytestWarning"], sys.path)


@pytest.mark.parametrize("option", ["--result", "--res"])
def test_a_run_that_cannot_be_imported_leaves_no_old_report_either(tmp_path: Path, option: str) -> None:
    """A defect in this tree; the option is abbreviated, as argparse takes it."""
    tree, results = copied(tmp_path / "tree"), tmp_path / "out"
    results.mkdir()
    (results / "tiny-tp2.xml").write_text("an old report")
    with (tree / "validation" / "run" / "options.py").open("a") as file:
        file.write("def (\n")
    done = started(tree, ["run", "--layouts", "tp2", option, str(results)])
    assert done.returncode == 1
    assert [path.name for path in results.iterdir()] == ["before"]


def test_a_run_without_its_packages_leaves_no_old_report(tmp_path: Path) -> None:
    """Exit code 3 in one sentence, with no package at all."""
    tree, results = copied(tmp_path / "tree"), tmp_path / "out"
    results.mkdir()
    (results / "tiny-tp2-fp64-local-gloo.xml").write_text("an old report")
    done = started(tree, ["run", "--layouts", "tp2", "--results", str(results)], switches=("-S",))
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert [path.name for path in results.iterdir()] == ["before"]


GONE = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


@pytest.mark.parametrize("words", ["validation run", "validation doctor", "validation compare a b", "ci matrix"])
def test_a_working_folder_that_was_removed_is_told_in_a_sentence(tmp_path: Path, words: str) -> None:
    """Whatever the command, nothing is started, and reports of an earlier run leave their place."""
    (tmp_path / "gone").mkdir()
    report = tmp_path / "results" / "tiny-single-fp64-local-gloo.xml"
    report.parent.mkdir()
    report.touch()
    results = ["--results", str(report.parent)] if words == "validation run" else []
    done = subprocess.run(
        [sys.executable, "-c", GONE, "-m", *words.split(), *results],
        cwd=tmp_path / "gone",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    said = "error: the working folder is not there (No such file or directory), perhaps removed; change to another with cd\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert report.exists() != bool(results)

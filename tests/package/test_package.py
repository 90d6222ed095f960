"""The package: built as pip builds it, installed into an environment of its own, and run from a folder full of traps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from ci.requirements import required
from tests.package import building
from validation.case.errors import ExitCode

ROOT = Path(__file__).parents[2]
TRAP = "raise RuntimeError('the wrong package')\n"
SPEC = """from validation.candidate.spec import block_spec


def layers(config, vp_stage):
    return block_spec("local", config, vp_stage)
"""


@dataclass(frozen=True)
class Built:
    """What was built of a tagged commit, and an environment with the wheel."""

    tree: Path
    sdist: Path
    wheel: Path
    environment: Path
    commit: str

    def run(self, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """One of the environment's programs, in this folder."""
        program = self.environment / "bin" / words[0]
        return building.run([str(program), *words[1:]], folder, **variables)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`python -m build` makes a source distribution, and the wheel of that."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    commit = building.tagged(tree, "v9.8.7")
    building.build(tree, out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Built(tree, sdist, wheel, building.installed(wheel, tmp_path_factory.mktemp("environment")), commit)


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A team's folder: with packages of the same names, and a layer spec."""
    for name in ("ci", "validation", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP, encoding="utf-8")
    (tmp_path / "numpy.py").write_text(TRAP, encoding="utf-8")
    (tmp_path / "my_spec.py").write_text(SPEC, encoding="utf-8")
    return tmp_path


def metadata(wheel: Path) -> Any:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_brings_one_package(built: Built) -> None:
    """`ci` and `validation` are names that a team's own packages have."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {"plumbline", "plumbline-9.8.7.dist-info"}
    assert {"plumbline/py.typed", "plumbline/_root/ci/matrix.yaml", "plumbline/_root/validation/compare/difference.c"} < set(
        names
    )
    assert {"plumbline-9.8.7.dist-info/licenses/LICENSE", "plumbline/_root/requirements/te.txt"} < set(names)


def test_the_wheel_has_every_file_of_the_repository_that_is_read(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    tracked = [name for name in building.files(ROOT) if name.partition("/")[0] in ("ci", "validation", "requirements")]
    assert len(tracked) > 400
    assert [name for name in tracked if f"plumbline/_root/{name}" not in names] == []


def test_what_is_installed_with_it_is_what_the_requirements_say(built: Built) -> None:
    """One truth in two files: torch as for GPUs, which takes what an image has, and all others as in base.txt."""
    found = {one for one in map(Requirement, metadata(built.wheel).get_all("Requires-Dist")) if "extra" not in str(one.marker)}
    base = [line.partition("#")[0].strip() for line in (ROOT / "requirements" / "base.txt").read_text().splitlines()]
    cuda = [line for line in (ROOT / "requirements" / "cuda.txt").read_text().splitlines() if line.startswith("torch")]
    assert found == set(map(Requirement, filter(None, [*base, *cuda])))
    assert {Requirement(line).name for line in required("nccl", "local")} <= {one.name for one in found}


def test_the_metadata_says_license_and_python(built: Built) -> None:
    found = metadata(built.wheel)
    assert (found["Name"], found["Version"], found["License-Expression"]) == ("plumbline", "9.8.7", "Apache-2.0")
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"


def test_the_version_is_the_tag_and_the_commit(built: Built, traps: Path) -> None:
    for words in (["plumbline"], ["plumbline-ci"], ["python", "-m", "plumbline"]):
        done = built.run(traps, *words, "--version")
        assert done.stdout == f"plumbline 9.8.7 (commit {built.commit})\n", done.stderr


def test_a_session_goes_from_manifest_to_a_green_gate(built: Built, traps: Path) -> None:
    """With the installed package alone, from a folder with packages of the same names, as a user's own layer spec."""
    planned = built.run(traps, "plumbline-ci", "manifest", "--session", "cpu_single", "--no-self-test")
    assert planned.returncode == 0, planned.stderr
    done = built.run(traps, "plumbline", "run", "--layouts", "single")
    assert done.returncode == 0, done.stdout + done.stderr
    gate = built.run(traps, "plumbline-ci", "gate", "--manifest", "manifest.json", "--results", "results")
    assert gate.returncode == 0, gate.stdout + gate.stderr
    (results,) = (traps / "results").glob("*.xml")
    said = results.read_text(encoding="utf-8")
    assert f'<property name="commit" value="{built.commit}"' in said
    assert '<property name="command" value="plumbline run --layouts single"' in said


@pytest.mark.parametrize("flags", [[], ["-sE"]], ids=["as pip installs it", "as pipx does"])
def test_a_layer_spec_in_the_working_folder_is_found(built: Built, traps: Path, flags: Sequence[str]) -> None:
    """And nothing else of that folder stands for what is installed."""
    started = ("python", *flags, str(built.environment / "bin" / "plumbline"))
    words = ["--layouts", "single", "--implementation", "my_spec:layers", "--only", "Embedding Output", "--format", "json"]
    done = built.run(traps, *started, "run", *words)
    assert json.loads(done.stdout)["counts"] == {"pass": 1}, done.stderr


def test_a_changed_file_of_the_installed_package_is_said(built: Built, traps: Path) -> None:
    package = built.environment / building.packages(built.environment) / "plumbline"
    extra = package / "_root" / "ci" / "mine.py"
    extra.touch()
    try:
        assert built.run(traps, "plumbline-ci", "manifest", "--session", "cpu_single").returncode == 0
        assert json.loads((traps / "manifest.json").read_text(encoding="utf-8"))["dirty"] == "true"
    finally:
        extra.unlink()


def test_the_doctor_names_files_and_commands_that_are_there(built: Built, traps: Path) -> None:
    done = built.run(traps, "plumbline", "doctor")
    assert done.returncode == 0, done.stdout
    assert "nox" not in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Transformer Engine: not installed"))
    (file,) = (Path(word) for word in line.split() if word.endswith("/te.txt"))
    assert file.is_file()


@pytest.mark.parametrize("words", [["plumbline-ci", "sessions"], ["plumbline", "faults", "--write"]])
def test_what_writes_pages_of_the_repository_needs_a_checkout(built: Built, traps: Path, words: Sequence[str]) -> None:
    done = built.run(traps, *words)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.endswith("works on the pages in docs/, which the installed package has not; run it in a checkout\n")


def test_help_and_refusals_say_the_command_that_was_called(built: Built, traps: Path) -> None:
    assert built.run(traps, "plumbline-ci", "gate", "--help").stdout.startswith("usage: plumbline-ci gate ")
    shown = built.run(traps, "plumbline", "run", "--help").stdout
    assert "plumbline run --layouts single,tp2,pp2" in shown
    assert "python -m" not in shown
    wrong = built.run(traps, "plumbline", "rum")
    assert wrong.returncode == ExitCode.USAGE
    assert wrong.stderr.startswith("usage: plumbline [-h]")


def test_importing_it_brings_nothing_else(built: Built, traps: Path) -> None:
    """No torch, no `ci` and no `validation`: the process is somebody else's."""
    told = "import plumbline, sys; print(plumbline.__version__, *{'torch', 'ci', 'validation', 'numpy'} & sys.modules.keys())"
    assert built.run(traps, "python", "-P", "-c", told).stdout == "9.8.7\n"


def test_a_changed_tree_makes_a_package_that_says_so(built: Built, tmp_path: Path) -> None:
    from hatch_build import built as written

    assert written(built.tree, "1")["dirty"] == "false"
    copy = tmp_path / "copy"
    shutil.copytree(built.tree, copy)
    (copy / "ci" / "gate.py").write_text(TRAP, encoding="utf-8")
    assert (written(copy, "1")["commit"], written(copy, "1")["dirty"]) == (built.commit, "true")


def test_a_source_distribution_knows_its_commit_and_whether_it_was_changed(built: Built, tmp_path: Path) -> None:
    from hatch_build import built as written

    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    assert (written(tree, "1")["commit"], written(tree, "1")["dirty"]) == (built.commit, "false")
    (tree / "validation" / "doctor.py").write_text(TRAP, encoding="utf-8")
    assert (written(tree, "1")["commit"], written(tree, "1")["dirty"]) == (built.commit, "true")


def test_a_tree_without_git_makes_a_package_that_knows_no_commit(built: Built, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(built.tree, tree, ignore=shutil.ignore_patterns(".git"))
    building.build(tree, tmp_path, "--wheel")
    assert metadata(next(tmp_path.glob("*.whl")))["Version"] == "0.1.dev0"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        said = json.loads(archive.read("plumbline/build.json"))
    assert (said["version"], said["commit"], said["dirty"]) == ("0.1.dev0", "", "unknown")


def test_an_editable_installation_is_a_checkout(built: Built, tmp_path: Path) -> None:
    """What is changed there runs, and the version is that of the moment."""
    environment = building.installed(built.tree, tmp_path, "--no-build-isolation", "--editable")
    done = building.run([str(environment / "bin" / "plumbline"), "--version"], tmp_path)
    assert done.stdout == f"plumbline 9.8.7 (a checkout of commit {built.commit})\n"


def test_this_checkout_runs_as_a_module(tmp_path: Path) -> None:
    """From another folder, with the checkout on PYTHONPATH."""
    done = building.run([sys.executable, "-m", "plumbline", "--version"], tmp_path, PYTHONPATH=str(ROOT))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert f"(a checkout of commit {commit}" in done.stdout
    assert building.run([sys.executable, "-m", "validation", "--version"], ROOT).stdout == done.stdout


def test_the_folder_of_the_installed_packages_has_the_shared_ones(built: Built) -> None:
    """The environment of these tests sees torch without a second copy: else it would prove nothing about dependencies."""
    assert os.path.samefile(
        (building.packages(built.environment) / "shared.pth").read_text(encoding="utf-8"), sysconfig.get_path("purelib")
    )


def test_build_requirements_are_those_of_the_tests() -> None:
    """The tests build without a network, with what is installed for them."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        wanted = tomllib.load(file)["build-system"]["requires"]
    assert set(wanted) <= set((ROOT / "requirements" / "tests.txt").read_text(encoding="utf-8").splitlines())

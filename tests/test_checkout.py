"""A checkout of megatron-core in place of the installed one: what it must hold, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from validation import checkout, doctor, machine
from validation.case.errors import UsageError

ROOT = Path(__file__).parents[1]
PACKAGE_INFO = "MAJOR = 9\nMINOR = 8\nPATCH = 7\nPRE_RELEASE = 'rc1'\nVERSION = (MAJOR, MINOR, PATCH, PRE_RELEASE)\n"


def make(folder: Path, package_info: str = PACKAGE_INFO) -> Path:
    """The least that is a checkout."""
    core = folder / "megatron" / "core"
    core.mkdir(parents=True)
    (core / "__init__.py").write_text("HERE = __file__\n")
    (core / "package_info.py").write_text(package_info)
    return folder


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checkout.VARIABLE, "")


def test_without_a_checkout_the_installed_megatron_core_is_meant() -> None:
    core = checkout.core()
    assert core is not None
    assert (core / "transformer").is_dir()
    assert machine.version("megatron-core") == checkout.version(core)
    assert checkout.facts() == {}


@pytest.mark.parametrize(
    ("package_info", "version"),
    [
        (PACKAGE_INFO, "9.8.7rc1"),
        ("MAJOR = 0\nMINOR = 16\nPATCH = 1\nPRE_RELEASE = ''\n", "0.16.1"),
        ('MAJOR = 0\nMINOR = 17\nPATCH = 0\nPRE_RELEASE = "rc0"\n', "0.17.0rc0"),
    ],
)
def test_its_version_is_read_and_not_imported(tmp_path: Path, package_info: str, version: str) -> None:
    checkout.choose(make(tmp_path, package_info))
    assert machine.version("megatron-core") == version
    assert machine.machine()["megatron-path"] == tmp_path.name


def test_choosing_nothing_undoes_a_choice(tmp_path: Path) -> None:
    checkout.choose(make(tmp_path))
    checkout.choose(None)
    assert checkout.chosen() is None


def test_a_folder_without_megatron_core_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--megatron-path .*: there is no megatron/core/__init__.py in it; give the folder"):
        checkout.choose(tmp_path)


@pytest.mark.parametrize("package_info", ["", "MAJOR = 0\nMINOR = 16\n", "MAJOR = unknown\nMINOR = 16\nPATCH = 1\n"])
def test_a_checkout_that_does_not_say_its_version_is_refused(tmp_path: Path, package_info: str) -> None:
    """Which known bugs it has goes by its version."""
    with pytest.raises(UsageError, match="does not say which version it is"):
        checkout.choose(make(tmp_path, package_info))


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True).stdout


def test_reports_name_the_commit_of_a_checkout_that_has_one(tmp_path: Path) -> None:
    checkout.choose(make(tmp_path))
    assert "megatron-commit" not in checkout.facts()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert checkout.facts()["megatron-commit"] == commit
    (tmp_path / "megatron" / "core" / "__init__.py").write_text("# changed\n")
    assert checkout.facts()["megatron-commit"] == f"{commit}-dirty"


def test_a_checkout_may_lie_in_a_folder_of_a_repository(tmp_path: Path) -> None:
    """As a submodule's copy does. What is only unpacked there, and none of git's, has no commit."""
    (tmp_path / "third_party").mkdir()
    checkout.choose(make(tmp_path / "third_party"))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "nothing of it")
    assert "megatron-commit" not in checkout.facts()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all of it")
    assert checkout.facts()["megatron-commit"] == git(tmp_path, "rev-parse", "HEAD").strip()


def test_the_doctor_says_which_megatron_core_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what that needs and is not installed."""
    (make(tmp_path) / "megatron" / "core" / "__init__.py").write_text("import no_such_package\n")
    assert doctor.main(["--megatron-path", str(tmp_path)]) == 3
    lacking = f"megatron-core 9.8.7rc1 needs no_such_package, which is not installed for {sys.executable}"
    where = "(megatron/core/__init__.py, line 1, imports it); `pip install no-such-package` brings it"
    said = f"megatron-core: 9.8.7rc1 (path {tmp_path.name}) - no case can run: {lacking} {where}\n"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("regular", [False, True], ids=["megatron has no __init__.py", "megatron has one"])
def test_it_outweighs_the_installed_one_and_brings_nothing_else(tmp_path: Path, regular: bool) -> None:
    """A checkout has a folder `tests`, as this one has: that is not what was asked for."""
    make(tmp_path)
    if regular:
        (tmp_path / "megatron" / "__init__.py").write_text("MARK = 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("raise ImportError\n")
    script = (
        "from validation import checkout; checkout.install(); import tests.checks, megatron, megatron.core;"
        "print(megatron.core.HERE, getattr(megatron, 'MARK', 0))"
    )
    environment = {checkout.VARIABLE: str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "megatron" / "core" / "__init__.py"), str(int(regular))]

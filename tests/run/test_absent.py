"""What megatron-core asks for and is not installed is told as such; any other error of an import is its own."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from validation import checkout
from validation.case.errors import ExitCode
from validation.run import absent
from validation.run.cause import exit_code
from validation.run.report import RankReport

PACKAGE_INFO = "MAJOR = 9\nMINOR = 8\nPATCH = 7\nPRE_RELEASE = ''\n"


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The megatron/core of a checkout that was chosen."""
    folder = tmp_path / "Megatron-LM" / "megatron" / "core"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "package_info.py").write_text(PACKAGE_INFO, encoding="utf-8")
    monkeypatch.setenv(checkout.VARIABLE, str(folder.parents[1]))
    return folder


def raised(file: Path, line: str) -> BaseException:
    """What importing a file with this line raises."""
    file.write_text(f"\n{line}\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("asking", file)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return caught.value


@pytest.mark.parametrize(
    ("line", "package", "called"),
    [
        ("import no_such_package", "no_such_package", "no-such-package"),
        ("from no_such_package.inner import name", "no_such_package", "no-such-package"),
        ("import fla.ops", "fla", "flash-linear-attention"),
    ],
)
def test_a_package_that_is_not_installed_is_missing_from_the_machine(core: Path, line: str, package: str, called: str) -> None:
    """Named with the file that asks for it, and with what brings it."""
    error = raised(core / "asking.py", line)
    sentence = (
        f"megatron-core 9.8.7 needs {package}, which is not installed for {sys.executable} "
        f"(megatron/core/asking.py, line 2, imports it); `pip install {called}` brings it"
    )
    assert absent.lacking(error) == sentence
    assert absent.told(error) == f"ModuleNotFoundError: {sentence}"
    assert exit_code(error) == ExitCode.ENVIRONMENT


def test_what_an_installed_package_asks_for_is_missing_too(core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is that of the package."""
    (tmp_path / "half_installed.py").write_text("import no_such_package\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    said = absent.lacking(raised(core / "asking.py", "import half_installed"))
    assert said is not None
    assert (
        f"needs no_such_package, which is not installed for {sys.executable} ({tmp_path / 'half_installed.py'}, line 1" in said
    )


def test_a_package_that_is_kept_from_being_imported_is_missing_too(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that is installed and broken (validation/candidate/platform.py)."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    said = absent.lacking(raised(core / "asking.py", "import yaml"))
    assert said is not None
    assert said.endswith("`pip install pyyaml` brings it")


def test_megatron_core_may_say_itself_what_it_lacks(core: Path) -> None:
    """It asks first, and raises when the package is needed."""
    error = raised(core / "asking.py", "raise ImportError('einops is required for this')")
    where = "(megatron/core/asking.py, line 2)"
    assert absent.lacking(error) == (
        f"megatron-core 9.8.7 needs what is not installed for {sys.executable}: einops is required for this {where}"
    )
    assert exit_code(error) == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    "line",
    [
        "from megatron import no_such_name",
        "import megatron.no_such_module",
        "from os import no_such_name",
        "import json.no_such_module",
        "from . import something",
        "import tools.of_the_checkout",
        "import script",
        "raise ValueError('a mistake')",
        "import (",
    ],
)
def test_a_mistake_in_the_checkout_is_its_own(core: Path, line: str) -> None:
    """A name, a module of its own, a file at its root where nothing is imported from, or anything else that it raises."""
    (core.parents[1] / "tools").mkdir()
    (core.parents[1] / "script.py").touch()
    error = raised(core / "asking.py", line)
    assert absent.lacking(error) is None
    assert exit_code(error) == ExitCode.FAIL


def test_what_others_ask_for_is_not_said_of_megatron_core(core: Path, tmp_path: Path) -> None:
    """Such as a user's own spec."""
    for line in ("import no_such_package", "raise ImportError('einops is required')"):
        assert absent.lacking(raised(tmp_path / "own.py", line)) is None


def test_where_there_is_no_megatron_core_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkout, "core", lambda: None)
    assert absent.lacking(raised(tmp_path / "asking.py", "import no_such_package")) is None


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("import no_such_package", ExitCode.ENVIRONMENT),
        ("from os import no_such_name", ExitCode.FAIL),
        ("1 / 0", ExitCode.FAIL),
    ],
)
def test_a_rank_that_cannot_import_the_checkout_says_whose_it_is(core: Path, tmp_path: Path, line: str, code: ExitCode) -> None:
    report, error = RankReport(tmp_path, 0), raised(core / "asking.py", line)
    with pytest.raises(type(error)), report.importing():
        raise error
    left = json.loads(report.path("error").read_text(encoding="utf-8"))
    assert left["exit_code"] == code
    assert left["error"] == absent.told(error)


def test_a_rank_that_cannot_import_what_is_installed_lacks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(checkout.VARIABLE, raising=False)
    report = RankReport(tmp_path, 0)
    with pytest.raises(ImportError), report.importing():
        raise raised(tmp_path / "asking.py", "from os import no_such_name")
    assert json.loads(report.path("error").read_text(encoding="utf-8"))["exit_code"] == ExitCode.ENVIRONMENT

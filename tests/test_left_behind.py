"""The tests of one process do not trip over each other: what a test module leaves behind fails it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFTEST = "from tests.conftest import *\n"
GROUP = "torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)"
LEFT = {
    "platform.install('gloo')": "torch.cuda.current_device is replaced",
    "torch.Tensor.cuda = lambda tensor: tensor": "torch.Tensor.cuda is replaced",
    "make_deterministic()": "torch's deterministic mode is 1 and was 0",
    "torch.set_default_dtype(torch.float64)": "torch's default dtype is torch.float64 and was torch.float32",
    GROUP: "a process group is True and was False",
}
IMPORTS = """
import torch
from validation.candidate import platform
from validation.compare.precision import make_deterministic
from validation.run import launch
"""


def run_tests(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


OF_A_COMMAND = f"""{IMPORTS}
import os, pytest

def test_first() -> None:
    launch.prepare("gloo")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""

def test_then() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in os.environ and "PLUMBLINE_TRANSPORT" not in os.environ

@pytest.fixture(scope="module")
def forgotten() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

def test_last(forgotten: None) -> None:
    pass
"""
AFTER_A_COMMAND = "import os\n\ndef test_after() -> None:\n    assert 'CUDA_VISIBLE_DEVICES' not in os.environ\n"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Modules in the order of their names: those that leave something behind, those of a command, one that ends the run."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "conftest.py").write_text(CONFTEST)
    for number, does in enumerate(LEFT):
        (folder / f"test_{number}.py").write_text(f"{IMPORTS}\ndef test_it() -> None:\n    {does}\n")
        (folder / f"test_{number}_then.py").write_text("def test_it() -> None:\n    pass\n")
    (folder / "test_of_a_command.py").write_text(OF_A_COMMAND)
    (folder / "test_of_a_command_next.py").write_text(AFTER_A_COMMAND)
    (folder / "test_the_end.py").write_text("import torch\n\ndef test_it() -> None:\n    torch.set_grad_enabled(False)\n")
    return run_tests(folder)


def test_what_a_module_leaves_behind_fails_it(ended: subprocess.CompletedProcess[str]) -> None:
    """Each kind by itself; the module behind it, which only looks on, passes."""
    count = len(LEFT)
    assert f"{2 * count + 5} passed, {count + 1} errors" in ended.stdout, ended.stdout + ended.stderr
    for number, said in enumerate(LEFT.values()):
        (line,) = [line for line in ended.stdout.splitlines() if line.startswith(f"test_{number}.py leaves this process")]
        assert said in line


def test_what_a_command_sets_for_its_processes_is_gone_after_the_test(ended: subprocess.CompletedProcess[str]) -> None:
    """The next test of the same module sees a GPU again, and the next module what was there before a module's own fixtures."""
    assert "FAILED" not in ended.stdout
    assert "test_of_a_command" not in ended.stdout.partition("= ERRORS =")[2]


def test_what_the_last_module_leaves_behind_fails_it_too(ended: subprocess.CompletedProcess[str]) -> None:
    """There is no test after it, but the watch must not depend on the order."""
    said = (
        "the last test module leaves this process changed for the tests after it: torch's gradient mode is False and was True"
    )
    assert said in ended.stdout


def test_where_every_test_is_skipped_there_is_nothing_to_see(tmp_path: Path) -> None:
    """As those for a GPU are on a machine without one."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text("import pytest\npytestmark = pytest.mark.skipif(True, reason='x')\ndef test_it(): pass\n")
    ended = run_tests(tmp_path)
    assert "2 skipped in" in ended.stdout, ended.stdout


def test_stand_ins_that_an_import_leaves_end_the_run(tmp_path: Path) -> None:
    """Test modules are imported on any machine, whichever tests are then chosen."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text("import validation.run.warm\ndef test_it() -> None:\n    pass\n")
    ended = run_tests(tmp_path)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert "importing the tests leaves stand-ins for torch." in ended.stderr
    assert all(
        f"torch.{name}, " in ended.stderr for name in ("compile", "cuda.Stream", "cuda.current_device", "cuda.default_stream")
    )


def test_the_tests_of_the_candidate_leave_cuda_alone() -> None:
    """A GPU test in the same process, after them: torch.cuda is torch's own. What they import counts, and what they run."""
    ended = run_tests(ROOT, "tests/candidate/test_modules.py", "tests/candidate/test_config.py")
    assert ended.returncode == 0, ended.stdout + ended.stderr

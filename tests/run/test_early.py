"""What imports for seconds is started as soon as the options are read, and ends if the command is refused after that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from validation.cache import forget
from validation.case.errors import ExitCode, UsageError
from validation.run import early, launch
from validation.run.options import parsed
from validation.run.references import REFERENCES

_REFUSED = """
import json, os, subprocess, sys
started, told = subprocess.Popen, []

def start(command, **given):
    process = started(command, **given)
    if "validation.run.refer" in command:
        told.append((process, "OMP_NUM_THREADS" in given["env"], sorted({"pytest", "yaml", "torch"} & sys.modules.keys())))
    return process

subprocess.Popen = start
from validation.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, [(process.returncode, *rest) for process, *rest in told], os.listdir(sys.argv[-1])]))
"""


def test_a_refused_command_ends_what_imports_for_it(tmp_path: Path) -> None:
    """Nothing that the checks import keeps it waiting, and it has its variables."""
    words = ["run", "--layouts", "tp3", "--results", str(tmp_path)]
    environment = {**os.environ, "PLUMBLINE_CACHE": str(tmp_path / "cache")}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _REFUSED, *words], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == "error: tp3 does not divide the 4 attention heads; tp1, tp2 and tp4 do\n"
    assert json.loads(done.stdout) == [ExitCode.USAGE, [[-9, True, []]], []]


@pytest.mark.parametrize(
    ("words", "stored", "started"),
    [
        ((), False, True),
        ((), True, False),
        (("--fresh",), True, True),
        (("--layouts", "single,tp2"), False, True),
        (("--transport", "nccl"), False, False),
        (("--only", "Layer 1"), False, False),
        (("--last-failed",), False, False),
        (("--manifest", "expected.json"), False, False),
        (("--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", "127.0.0.1:29500"), False, False),
        (("--megatron-path", "/nowhere"), False, False),
    ],
    ids=str,
)
def test_it_starts_if_it_is_sure_to_be_needed(
    words: tuple[str, ...], stored: bool, started: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is left alone if all goes well. An option that is wrong is refused by the preflight, in its order."""
    done: list[str] = []

    def start() -> bool:
        done.append("started")
        return True

    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(launch, "prepare", lambda transport, steps, compiles: None)
    monkeypatch.setattr(launch, "start_method", lambda: "spawn" if "nccl" in words else "forkserver")
    monkeypatch.setattr(launch, "end_at_exit", lambda: None)
    monkeypatch.setattr(forget, "references_of", lambda key, home: [home / key] if stored else [])
    monkeypatch.setattr(REFERENCES, "warm_up_with_ranks", start)
    monkeypatch.setattr(REFERENCES, "close", lambda: done.append("closed"))
    wanted = parsed(words)
    expected = ["started"] if started else []
    with early.importing(wanted):
        assert done == expected
    assert done == expected
    with pytest.raises(UsageError), early.importing(wanted):
        raise UsageError("refused")
    assert done == [*expected, *expected, *(["closed"] if expected else [])]

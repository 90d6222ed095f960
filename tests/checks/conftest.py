"""Commands as a user types them, run once for all tests that look at what came out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.checks.commands import WARM

ROOT = Path(__file__).parents[2]
BROKEN = "tests.checks.broken_specs"
RUNS = {
    "gate_and_up_swapped": "single",
    "mapped_wrongly": "single",
    "yarn_scale_dropped": "single",
    "reduction_lost": "tp2",
    "nan_in_one_gradient": "tp2",
    "gradient_reduction_lost": "tp2",
    "norm_unmarked": "tp2",
    "loss_not_scaled_by_cp": "cp2+mean",
    "expert_gradients_over_the_wrong_group": "ep2",
    "one_bucket_never_reduced": "dp2",
    "expert_bias_from_own_tokens": "dp2",
    "norm_of_copies": "tp2",
    "balance_of_own_tokens": "tp2+seqaux+mean",
    "mtp_mask_not_rolled": "single+mtp",
    "mtp_embedding_not_reduced": "pp2+mtp",
    "mtp_left_out_of_a_step": "single+mtp+mean+seqaux",
    "raises": "tp2",
    "local-stock": "tp2",
}
"""What is run with which layout: the defects of broken_specs, and megatron-core's own local spec."""
LAYERS = 2
"""One dense, one of experts: half of tiny, to be quicker."""


@dataclass(frozen=True)
class Output:
    """What a command left: exit code, everything it printed, and its JUnit files."""

    code: int
    text: str
    results: Path

    def titles(self, status: str) -> list[str]:
        """The titles of the checks of one status, in the order in which they were printed."""
        return re.findall(rf"^{status}: (.+?)(?: - .*)?$", self.text, re.MULTILINE)

    def line(self, title: str) -> str:
        """The one line that reports the check of this title."""
        (line,) = re.findall(rf"^[A-Z ]+: {re.escape(title)}(?: - .*)?$", self.text, re.MULTILINE)
        return line

    def suite(self, case: str) -> ElementTree.Element:
        """The one testsuite of a case's JUnit file."""
        (suite,) = ElementTree.parse(self.results / f"{case}.xml").getroot()
        return suite


def command(words: Sequence[str], cache: Path, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m validation WORDS`, to its end.

    Five seconds of a core for its imports: `warm` costs none of them, and does for what is not about a process of its own.
    """
    return subprocess.run(
        [sys.executable, "-m", "validation", *words],
        cwd=ROOT,
        env={**os.environ, "PLUMBLINE_CACHE": str(cache), **(variables or {})},
        capture_output=True,
        text=True,
        timeout=1800,
    )


def warm(words: Sequence[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """The same in the process that all tests share, whose ranks start warm."""
    return WARM.run(words, cache)


def without_progress(text: str) -> str:
    """What a command printed, without the lines that a slow machine has it say so that it is not silent."""
    return re.sub(r"^(?:\d+ of \d+ layouts done, )?\d+ s: .* \.\.\.\n", "", text, flags=re.MULTILINE)


def commands_in_turn(words: Sequence[Sequence[str]], cache: Path, texts: Path) -> list[tuple[int, str]]:
    """Several such commands in the warm process: exit code and text of each, by way of files in `texts`."""
    files = [texts / f"{number}.txt" for number in range(len(words))]
    codes = [WARM.ask(command, cache, file, file) for command, file in zip(words, files, strict=True)]
    return [(code, without_progress(file.read_text())) for code, file in zip(codes, files, strict=True)]


def outputs_of(
    commands: Mapping[str, Sequence[str]], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Output]:
    """`python -m validation run ...` for each, by name, in one process and with results in folders of their own."""
    folders = {name: tmp_path_factory.mktemp("results") for name in commands}
    words = [["run", "-v", *command, "--results", str(folders[name])] for name, command in commands.items()]
    found = commands_in_turn(words, cache, tmp_path_factory.mktemp("texts"))
    return {name: Output(code, text, folders[name]) for name, (code, text) in zip(commands, found, strict=True)}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reference is kept that all runs share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def sound(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    """Two layouts of a model that is right, where variables would have pytest run the checks of weights alone."""
    results = tmp_path_factory.mktemp("results")
    narrowing = {"PYTEST_ADDOPTS": "-k weights", "PYTEST_PLUGINS": "tests.checks.narrowing"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in narrowing.items():
            patch.setenv(name, value)
        done = warm(["run", "-v", "--layouts", "single,tp2", "--results", str(results)], cache)
    assert done.stderr == ""
    return Output(done.returncode, without_progress(done.stdout), results)


@pytest.fixture(scope="session")
def broken(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Models that are wrong, each run once."""
    results, texts = tmp_path_factory.mktemp("broken"), tmp_path_factory.mktemp("texts")
    shared = ["run", "-v", "--set", f"num_layers={LAYERS}", "--results", str(results)]
    commands = [
        [*shared, "--layouts", layout, "--implementation", name if "-" in name else f"{BROKEN}:{name}"]
        for name, layout in RUNS.items()
    ]
    found = commands_in_turn(commands, cache, texts)
    return {name: Output(code, text, results) for name, (code, text) in zip(RUNS, found, strict=True)}

"""The script of a page in docs/findings, what the page says that it prints with which release, and how it is run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "findings"
_RELEASE = re.compile(r"\d+\.\d+\.\d+|main")
_MAIN = "0.20.0"
"""What main calls itself."""
_TRITON_SINCE = (0, 18)
_SECONDS = 1800.0
"""Far more than any takes, for machines with much else to do."""


@dataclass(frozen=True)
class Reproduction:
    """A page's script, the lines that it prints by release, and the page's status by release."""

    page: str
    script: str
    prints: dict[str, list[str]]
    status: dict[str, str]

    @property
    def ranks(self) -> int:
        """How many processes the first line of the script starts."""
        found = re.match(r"# torchrun --standalone --nproc-per-node (\d+) repro\.py ", self.script)
        return int(found[1]) if found else 1


def read(page: Path) -> Reproduction:
    """The page's reproduction. Without a script, `script` is empty."""
    text = page.read_text(encoding="utf-8")
    _, _, see = text.partition("**See it without")
    script = re.search(r"```python\n(.*?)```", see, re.DOTALL)
    prints = {
        release: sorted(block.splitlines())
        for releases, block in re.findall(r"^Printed with megatron-core (.*?):\n\n```\n(.*?)```", see, re.DOTALL | re.MULTILINE)
        for release in _RELEASE.findall(releases)
    }
    return Reproduction(page.stem, script[1] if script else "", prints, _status(text))


def _status(text: str) -> dict[str, str]:
    """What the table of the page says of each release."""
    table = re.search(r"^\| megatron-core \|(.*)\|\n\|[-|]+\n\| status \|(.*)\|$", text, re.MULTILINE)
    if table is None:
        return {}
    releases, states = ([cell.strip() for cell in row.split("|")] for row in table.groups())
    return {release.split(" ")[0]: state for release, state in zip(releases, states, strict=True)}


def release() -> str:
    """The megatron-core that a script finds, `main` for a checkout of it. Nothing of it is imported.

    Metadata would name the installed one, even if PYTHONPATH has another in front of it.
    """
    spec = importlib.util.find_spec("megatron")
    assert spec is not None
    assert spec.submodule_search_locations
    file = next(path for place in spec.submodule_search_locations if (path := Path(place, "core", "package_info.py")).exists())
    found = dict(re.findall(r"^(MAJOR|MINOR|PATCH) = (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    version = ".".join(found[part] for part in ("MAJOR", "MINOR", "PATCH"))
    return "main" if version == _MAIN else version


def missing() -> str:
    """Why no script can run here, or nothing."""
    version = release()
    young = version == "main" or tuple(map(int, version.split(".")[:2])) >= _TRITON_SINCE
    if young and importlib.util.find_spec("triton") is None:
        return f"megatron-core {version} imports triton, which is not installed; `pip install triton` in this environment"
    return ""


def run(reproduction: Reproduction, folder: Path) -> list[str]:
    """What its processes print when it is started as the page says. Sorted: the order of ranks is their own.

    Raises AssertionError if it fails.
    """
    script = _written(reproduction, folder)
    logs = folder / "logs"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(reproduction.ranks)]
    # A file for each rank: in one, lines of two ranks may be mixed up.
    front = [*torchrun, "--redirects", "1", "--log-dir", str(logs)] if reproduction.ranks > 1 else []
    ended = subprocess.run(
        [sys.executable, *front, str(script)], cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    assert ended.returncode == 0, ended.stderr
    printed = [ended.stdout, *(file.read_text(encoding="utf-8") for file in logs.rglob("stdout.log"))]
    return sorted(line for text in printed for line in text.splitlines())


def _written(reproduction: Reproduction, folder: Path) -> Path:
    script = folder / "repro.py"
    script.write_text(reproduction.script, encoding="utf-8")
    return script


def fork(wanted: Mapping[Path, Reproduction]) -> None:
    """Run scripts in forks of one process, each in its folder, where `of_forks` finds what they print (forked.py)."""
    words = [f"{_written(one, folder)}:{one.ranks}" for folder, one in wanted.items()]
    command = [sys.executable, "-m", "tests.findings.forked", *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS)
    assert ended.returncode == 0, ended.stderr


def of_forks(folder: Path, ranks: int) -> list[str]:
    """What the ranks of one of these scripts have printed, sorted. Raises AssertionError if one has failed."""
    said = [(folder / f"{rank}.stderr").read_text(encoding="utf-8") for rank in range(ranks)]
    assert [(folder / f"{rank}.code").read_text(encoding="utf-8") for rank in range(ranks)] == ["0"] * ranks, "".join(said)
    printed = ((folder / f"{rank}.stdout").read_text(encoding="utf-8") for rank in range(ranks))
    return sorted(line for text in printed for line in text.splitlines())

"""Every public recipe of tests/recipe/known beside one case of two ranks, each with an empty cache.

    python benchmarks/recipes.py [RECIPE ...]

Prints a row of the table in docs/recipes.md for each: stand-in, coverage, verdict, and the seconds of both commands.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
KNOWN = ROOT / "tests" / "recipe" / "known"
FOLDERS = {"ms-swift-moonlight.txt": ROOT / "tests" / "recipe" / "models" / "moonlight"}
"""HuggingFace folders of recipes that leave the model's numbers to one."""
_VERDICT = re.compile(r"^===== Overall result: (\w+)", re.MULTILINE)
_COVERAGE = re.compile(r"^Recipe \S+: (.*)$", re.MULTILINE)


def timed(words: Sequence[str]) -> tuple[float, str]:
    """Seconds of a comparison with an empty cache, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "validation", "run", *words, "--results", f"{folder}/results"]
        surroundings = {**os.environ, "PLUMBLINE_CACHE": f"{folder}/cache"}
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
        return time.monotonic() - start, done.stdout + done.stderr


def row(path: Path) -> str:
    """What came of a recipe, beside the time of tp2."""
    folder = ["--hf-model-path", str(FOLDERS[path.name])] if path.name in FOLDERS else []
    beside, _ = timed(["--layouts", "tp2"])
    seconds, said = timed(["--recipe", str(path), *folder])
    verdict, coverage = _VERDICT.search(said), _COVERAGE.search(said)
    words = (verdict[1] if verdict else said.strip().splitlines()[-1], coverage[1] if coverage else "")
    return f"| {path.name} | {words[0]} | {words[1]} | {seconds:.0f} s | {beside:.0f} s | {seconds / beside:.1f} |"


def main(names: Sequence[str]) -> None:
    """A line for each recipe."""
    sys.stdout.write("| recipe | verdict | settings | time | tp2 | ratio |\n|---|---|---|---|---|---|\n")
    for path in sorted(KNOWN.iterdir()):
        if not names or path.name in names:
            sys.stdout.write(row(path) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

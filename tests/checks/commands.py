"""Runs commands of `python -m validation` one after the other in this process, so that they share one fork server.

Importing torch and megatron-core takes most of a command's time. Standard input is a JSON list of commands; `OUT/N.txt`
gets what the Nth prints, and standard output the exit codes.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from validation.cli import main


def run(commands: list[list[str]], out: Path) -> list[int]:
    codes = []
    for number, command in enumerate(commands):
        with (out / f"{number}.txt").open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            codes.append(main(command))
    return codes


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(json.load(sys.stdin), Path(sys.argv[1]))))

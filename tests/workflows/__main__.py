"""`python -m tests.workflows`: the table of scenarios and gates, as they come out now."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.workflows.scenarios import ALL, NEEDED, Played, Scenario, node_is_there, play_all
from validation.case.errors import ExitCode


def line(scenario: Scenario, played: Played) -> str:
    """A row: what happens, how each job ends, the gate, and its first reason."""
    jobs = ", ".join(f"{name.removeprefix('plumbline / ')} {result}" for name, result in played.jobs.items() if "/" in name)
    said = played.output("gate", "Judge").splitlines() if played.gate not in ("", "skipped") else [""]
    return f"| {scenario.what} | {jobs or 'not started'} | {played.gate or 'none'} | {said[0][:160]} |\n"


def main() -> int:
    """Print the table; 1 where a gate is not as it must be, 3 where there is no Node to run anything with."""
    if not node_is_there():
        sys.stderr.write(f"error: {NEEDED}\n")
        return ExitCode.ENVIRONMENT
    sys.stdout.write("| scenario | jobs | gate | first line of the gate |\n| --- | --- | --- | --- |\n")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="plumbline-scenarios-") as folder:
        for name, played in play_all(Path(folder)).items():
            sys.stdout.write(line(ALL[name], played))
            wrong += played.gate != ALL[name].gate
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())

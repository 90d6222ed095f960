"""`python -m tests.mutants [MODULE ...]`: change the code that decides, one place at a time; a test must notice each change."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import copied, mutmut
from tests.mutants.score import Score, listing, score, table
from tests.mutants.table import EQUIVALENT, Mutation, Row, chosen, equivalent
from validation.case.errors import ExitCode, UsageError


def scored(row: Row, workers: int) -> list[Score]:
    """The score of each module of a row, which is printed, too: who has to end a long run has what it found so far."""
    began = time.monotonic()
    sys.stdout.write(f"\n{', '.join(row.modules)}\n")
    sys.stdout.flush()
    found = _scored(row, workers)
    sys.stdout.write(table(found) + f"{round(time.monotonic() - began)} s\n" + _unlisted(found))
    sys.stdout.flush()
    return found


def _scored(row: Row, workers: int) -> list[Score]:
    with tempfile.TemporaryDirectory(prefix="plumbline-mutants-") as folder:
        copy = Path(folder) / "copy"
        copied.make(copy, row)
        mutants = mutmut.run(copy, workers)
        unnoticed = [mutant for mutant in mutants if mutant.status in mutmut.SURVIVED]
        with ThreadPoolExecutor(workers) as pool:
            mutations = list(pool.map(lambda mutant: mutmut.mutation(copy, mutant), unnoticed))
    return [_of_module(module, mutants, mutations) for module in row.modules]


def _of_module(module: str, mutants: Sequence[mutmut.Mutant], mutations: Sequence[Mutation]) -> Score:
    count = sum(mutant.module == module for mutant in mutants)
    return score(module, count, [mutation for mutation in mutations if mutation.module == module], equivalent())


def _unlisted(scores: Sequence[Score]) -> str:
    """What survived and is not listed, and what is listed and did not survive, with what to do; empty if there is none."""
    survivors = [mutation for one in scores for mutation in one.survivors]
    said = f"No test notices these. Write one; if none can, add them to {EQUIVALENT.name} with the reason:\n\n"
    said = f"\n{said}{listing(survivors)}" if survivors else ""
    stale = [mutation for one in scores for mutation in one.stale]
    gone = f"listed in {EQUIVALENT.name}, but noticed or not made any more; remove it:"
    return said + "".join(f"\n{gone} {mutation}\n" for mutation in stale)


def told(scores: Sequence[Score]) -> int:
    """Print the table of all; 1 if something survived that is not listed, or is listed and did not survive."""
    sys.stdout.write(f"\nall modules\n{table(scores)}")
    survivors, stale = sum(len(one.survivors) for one in scores), sum(len(one.stale) for one in scores)
    if not (survivors or stale):
        return ExitCode.PASS
    sys.stdout.write(
        f"\n{survivors} unnoticed and not listed, {stale} listed in vain; each is named above, under its modules\n"
    )
    return ExitCode.FAIL


def main(arguments: Sequence[str]) -> int:
    """The command; its exit codes are Plumbline's."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as ci/gate.py; all of table.yaml if none is given")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="mutants at a time (default: one a core)")
    given = parser.parse_args(arguments)
    try:
        wanted = chosen(given.modules)
        if importlib.util.find_spec("mutmut") is None:
            sys.stderr.write("error: mutmut is not installed; `nox -s mutants` installs it (requirements/mutants.txt)\n")
            return ExitCode.ENVIRONMENT
        return told([one for row in wanted for one in scored(row, max(1, given.workers))])
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USAGE
    except mutmut.Broken as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.INFRASTRUCTURE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

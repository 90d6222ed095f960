"""What is printed counts one thing as one: `1 check`, not `1 checks`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("ci", "plumbline", "validation")
COUNTED = [
    "bytes",
    "cases",
    "causes",
    "checkpoints",
    "checks",
    "defects",
    "documents",
    "elements",
    "experts",
    "faults",
    "files",
    "keys",
    "layers",
    "layouts",
    "nodes",
    "ranks",
    "reasons",
    "requests",
    "routes",
    "rows",
    "runs",
    "samples",
    "sequences",
    "sessions",
    "settings",
    "stages",
    "steps",
    "tensors",
    "testcases",
    "testsuites",
    "tokens",
    "weights",
]
"""Nouns that messages count."""
ALWAYS_SEVERAL = {
    # a constant, or said if there are several alone
    "{COUNT} cases",
    "{LARGEST} bytes",
    "{MOST_CASES} testcases",
    "{MOST_EXPERTS} experts",
    "{MOST_RANKS} ranks",
    "{MOST} nodes",
    "{_LONGEST_LINE} bytes",
    "{cases} cases",
    "{count} cases",
    "{degree} ranks",
    "{every} faults",
    "{len(asked)} green runs",
    "{most} bytes",
    "{one.nodes} nodes",
    "{sharing} ranks",
    # another word is counted, or none
    "{case.precision} steps",
    "{combinations} cases",
    "{case.transport} ranks",
    "{further} stages",
    "{join(list(kinds))} tokens",
    "{join(right)} tokens",
    "{kinds} tokens",
    "{options.transport} runs",
    "{plugin} runs",
    "{driver()} runs",
    "{self.experts} experts",
    "{summary(fit.chunks)} layers",
    "{tree.CI} sessions",
    "{tree.VALIDATION} faults",
}
"""What reads like a number of things, and never is 1."""
PLURAL = re.compile(r"\{[^{}\n]*\} (?:(?:further|green|more|other|pipeline|such) )?(?:" + "|".join(COUNTED) + r")\b")


def test_every_number_of_things_is_written_by_the_one_helper() -> None:
    """`validation.case.plural.many`, of which a source has no plural behind the braces."""
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for match in PLURAL.finditer(path.read_text(encoding="utf-8"))
        if match[0] not in ALWAYS_SEVERAL
    }
    assert found == set()

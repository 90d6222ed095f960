"""The blocks, and where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.made import checks, commands, failures, families, fields, presets, words

DOCS = Path(__file__).parents[1]
BLOCKS: Mapping[str, Callable[[], str]] = {
    "run": lambda: commands.of_validation("run"),
    "inspect": lambda: commands.of_validation("inspect"),
    "fields command": lambda: commands.of_validation("fields"),
    "data command": lambda: commands.of_validation("data"),
    "recipe show": lambda: commands.of_recipe("show"),
    "recipe capture": lambda: commands.of_recipe("capture"),
    "plan": lambda: commands.of_validation("plan"),
    "faults": lambda: commands.of_validation("faults"),
    "pairs": lambda: commands.of_validation("pairs"),
    "convert": lambda: commands.of_validation("convert"),
    "compare": lambda: commands.of_validation("compare"),
    "logprobs": lambda: commands.of_validation("logprobs"),
    "slurm run": lambda: commands.of_slurm("run"),
    "slurm trainjob": lambda: commands.of_slurm("trainjob"),
    "doctor": lambda: commands.of_validation("doctor"),
    "pipeline": commands.of_pipeline,
    "exit codes": failures.exit_codes,
    "failures": failures.kinds,
    "presets": presets.numbers,
    "families": families.compared,
    "refused families": families.refused,
    "degrees": words.degrees,
    "step": words.step,
    "planted": checks.planted,
    "probes": checks.probes,
    "sparse probes": checks.sparse_probes,
    "parameters": checks.parameters,
    "kinds of fields": fields.kinds,
    "needs": fields.needs,
    "fields": fields.everything,
    "verdicts of switches": fields.verdicts,
    "machines": fields.machines,
    "unequal switches": fields.unequal,
    "untried switches": fields.untried,
}
_BLOCK = re.compile(r"(?<=<!-- made: )([a-z ]+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """The pages that have a block."""
    return [page for page in sorted(DOCS.glob("*.md")) if _BLOCK.search(page.read_text(encoding="utf-8"))]


def current(text: str) -> str:
    """A page as it should be: each block made anew. Raises KeyError for one of a name that nothing makes."""
    return _BLOCK.sub(lambda found: f"{found[1]}{found[2]}\n{BLOCKS[found[1]]().strip()}\n\n", text)


def named(text: str) -> list[str]:
    """The names of a page's blocks."""
    return [found[1] for found in _BLOCK.finditer(text)]

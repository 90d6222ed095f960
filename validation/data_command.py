"""`python -m validation data`: what the data of a case hold that makes faults show, for a reader."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from validation import machine
from validation.case.errors import ExitCode, UsageError
from validation.case.plural import many

if TYPE_CHECKING:
    from validation.case.case import Case
    from validation.reference.excitation import Excited

_BYTES = 100
"""Of memory for a token of a batch, while it is looked at: 95 were measured with 9.6 million tokens."""


def add_command(commands: Any) -> None:
    """Add `data` to the commands of `python -m validation`."""
    found = commands.add_parser("data", help="what the data of a case hold that makes faults show, and what they lack")
    found.add_argument("--preset", metavar="NAME", default="tiny", help="whose data (default tiny)")
    found.add_argument(
        "--layout",
        metavar="LAYOUT",
        default="single",
        help="for which layout, with a data shape behind it if there is one, such as tp4+documents (default single)",
    )
    found.add_argument("--seed", metavar="N", help="seed of weights and tokens")
    found.add_argument("--batch-size", metavar="N", help="sequences of one step, over all data-parallel ranks")
    found.add_argument("--seq-length", metavar="N", help="tokens of one sequence")


def run(options: argparse.Namespace) -> int:
    """Print what there is. Returns an exit code, 1 if something lacks. Raises UsageError."""
    from validation.case import preflight
    from validation.run.options import parsed

    given = ["--preset", options.preset, "--layouts", options.layout]
    for name in ("seed", "batch_size", "seq_length"):
        value = getattr(options, name)
        given += [] if value is None else [f"--{name.replace('_', '-')}", value]
    cases = parsed(given).cases
    if len(cases) > 1:
        raise UsageError(f"data is about one layout and --layout {options.layout} names {len(cases)}; give one")
    for rule in preflight.RULES:
        if sentence := rule(cases[0]):
            raise UsageError(sentence)
    tokens, there = cases[0].batch_size * cases[0].seq_length, machine.available_memory()
    if tokens * _BYTES > there:
        needed, free = (f"{size / 2**30:.1f} GiB" for size in (tokens * _BYTES, there))
        raise UsageError(
            f"{many(tokens, 'token takes', 'tokens take')} about {needed} of memory and {free} are available; "
            "give a smaller --batch-size or --seq-length"
        )
    lines, lacks = _told(cases[0])
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(ExitCode.FAIL if lacks else ExitCode.PASS)


def _told(case: Case) -> tuple[list[str], bool]:
    from validation.reference.batch import make_batch
    from validation.reference.excitation import excited

    found = excited(case, make_batch(case))
    lacks = [one for one in found if _lacks(case, one)]
    said = f"{len(lacks)} lacking" if lacks else "nothing lacking"
    head = (
        f"{case.preset} / {case.label}: {many(case.batch_size, 'sequence')} of "
        f"{many(case.seq_length, 'token')}, seed {case.seed}"
    )
    return [head, *(_line(case, one) for one in found), said], bool(lacks)


def _lacks(case: Case, one: Excited) -> bool:
    return not one.there and case.training.data_shape in one.shapes


def _line(case: Case, one: Excited) -> str:
    word = "yes" if one.there else "LACKS" if _lacks(case, one) else "no"
    return f"{word:5}  {one.what}: {one.detail}" + "".join(_elsewhere(one) if word == "no" else ())


def _elsewhere(one: Excited) -> Iterator[str]:
    """The shapes that have what this one has not."""
    if one.shapes:
        *others, last = (f"+{shape}" for shape in one.shapes)
        yield f" ({', '.join(others)} and {last} have it)" if others else f" ({last} has it)"

"""`python -m validation fields`: what each field of upstream's configuration is, for a reader."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from validation import checkout
from validation.case.empty import given_path
from validation.case.errors import ExitCode, UsageError
from validation.case.strangers import shown

if TYPE_CHECKING:
    # The doctor runs without packages, and the table needs PyYAML.
    from validation.case.declared import Field
    from validation.case.fields import Entry


def add_command(commands: Any) -> None:
    """Add `fields` to the commands of `python -m validation`."""
    found = commands.add_parser("fields", help="what a field of Megatron-Core's configuration is: may a setting change it?")
    found.add_argument("names", nargs="*", metavar="NAME", help="fields such as model.moe_permute_fusion; all without one")
    found.add_argument("--kind", metavar="KIND", help="those of one kind, such as neutral")
    found.add_argument(
        "--megatron-path", type=given_path, metavar="DIR", help="the fields of a checkout, not of what is installed"
    )


def run(options: argparse.Namespace) -> int:
    """Print what was asked for. Returns an exit code. Raises UsageError."""
    from validation.case import declared, fields

    if options.kind not in (None, *fields.KINDS):
        raise UsageError(f"--kind {shown(options.kind)} is no kind; kinds are {', '.join(fields.KINDS)}")
    checkout.choose(options.megatron_path)
    known = declared.here()
    found = [declared.find(known, name) for name in options.names] or list(known.values())
    entries = [(field, fields.entry(field.full_name)) for field in found]
    kept = [(field, entry) for field, entry in entries if options.kind in (None, entry.kind)]
    lines = (line for pair in kept for line in (_whole(*pair) if options.names else [_line(pair[1])]))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(ExitCode.PASS)


def _line(entry: Entry) -> str:
    """One field of many, as `grep` wants it."""
    return f"{entry.name:52} {entry.kind:8} {entry.why}"


def _whole(field: Field, entry: Entry) -> Iterator[str]:
    """A field with all that is known of it."""
    from validation.case.fields import KINDS, NEEDS
    from validation.case.settings import written

    said = {
        "kind": f"{entry.kind}: {KINDS[entry.kind]}",
        "does": entry.why,
        "takes": str(field.type),
        "default": field.default or "none: it must be given",
        "reference": f"validation/reference/{entry.formula}.py" if entry.formula else "",
        "for": ", ".join(map(written, entry.only)),
        "needs": NEEDS.get(entry.needs, ""),
        "read with": entry.with_field,
        "shows in": entry.lane,
        "said by": entry.option,
    }
    said |= {f"{written(value)} needs": NEEDS[need] for value, need in entry.needs_of}
    said |= {f"tried {release}": told for release, told in _tried(entry.name)}
    yield entry.name
    yield from (f"  {word:10} {text}" for word, text in said.items() if text)


def _tried(name: str) -> Iterator[tuple[str, str]]:
    """Release, and what came of each value of a field on which machine."""
    from validation.recipe import tries

    found: dict[str, list[str]] = {}
    for release, value, said in tries.of_field(name):
        found.setdefault(release, []).append(f"{value} {said['verdict']} in {said['layout']} on {said['on']}")
    yield from ((release, "; ".join(told)) for release, told in found.items())

"""What every field of upstream's configuration is: the table in fields.yaml, read once. No torch.

Nothing else in the code asks what kind a field is.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.strangers import quoted

TABLE = Path(__file__).with_name("fields.yaml")
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "shape": "a number of the model, or fixed by DeepSeek-V3",
        "layout": "a part of the layout",
        "neutral": "must not change a number beyond rounding: fusions, overlap, recompute, buckets, dispatchers",
        "meaning": "changes what is computed",
        "machine": "like neutral, but needs what a CPU does not have",
        "idle": "changes no number of a training step: logging, timers, inference, and what Megatron-Core ignores",
        "refused": "cannot be set; the table says what would be needed",
    }
)
"""Each kind, and what it says of a field."""
NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "te": "Transformer Engine",
        "gpu": "a GPU",
        "deepep": "DeepEP",
        "extension": "CUDA extensions of APEX or Megatron-LM",
        "package": "another Python package",
    }
)
"""Each need, as a sentence says it."""
_AT_REST: tuple[Value, ...] = (False, None, "none")


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    `formula` is the module of validation.reference that computes a field of kind meaning, empty if there is none. `only`
    are the values that the reference stands for, of a shape those that every DeepSeek-V3 has; empty if these are all.
    `needs` is one of NEEDS for any value, `needs_of` for single ones. `lane` is the precision that shows the field if fp64
    hides it. `option` is how Plumbline says the same. `with_field` is the full name of the field without which nothing reads
    this one, and `unread_at` are the values of it at which nothing does. `unread_by` is the implementation of a recipe that
    never reads it. `ranks` says that it is about what ranks send each other or share out.
    """

    name: str
    kind: str
    why: str
    formula: str = ""
    only: tuple[Value, ...] = ()
    needs: str = ""
    needs_of: tuple[tuple[Value, str], ...] = ()
    lane: str = ""
    option: str = ""
    with_field: str = ""
    unread_at: tuple[Value, ...] = ()
    unread_by: str = ""
    ranks: bool = False

    @property
    def section(self) -> str:
        """`model` of `model.moe_permute_fusion`."""
        return self.name.partition(".")[0]

    @property
    def of_one_rank(self) -> bool:
        """Whether a rank alone has the setting, too: what changes the numbers, and how the model is computed.

        Not so of the layout, of buckets and optimizers, of what ranks send each other, and of what is read with such a field.
        """
        if self.kind == "meaning":
            return True
        parent = entries().get(self.with_field)
        between = self.ranks or self.kind == "layout" or (parent is not None and parent.ranks)
        return self.section == "model" and not between

    def computed(self, value: Value) -> bool:
        """Whether the reference stands for this value: any of a field that changes nothing, those in `only` of another."""
        if self.kind != "meaning":
            return self.kind != "refused"
        if self.only:
            return any(_same(one, value) for one in self.only)
        return bool(self.formula)

    def need(self, value: Value) -> str:
        """What the value needs, one of NEEDS; empty for nothing."""
        return self.needs or next((need for one, need in self.needs_of if _same(one, value)), "")

    def unread(self, values: Mapping[str, Value]) -> bool:
        """Whether nothing reads the field, given the values of all others by their full names: its `with_field` is at rest.

        A release may have the field and not the other yet: there it is read.
        """
        return self.with_field in values and any(_same(one, values[self.with_field]) for one in self.unread_at)


@functools.cache
def entries() -> Mapping[str, Entry]:
    """The table: full name -> entry, section by section, in the order of the file."""
    # The parser in C takes a fifth of the time, if PyYAML was built with it.
    table: dict[str, dict[str, dict[str, Any]]] = yaml.load(
        TABLE.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    found = (_entry(f"{section}.{name}", line) for section, lines in table.items() for name, line in lines.items())
    return MappingProxyType({entry.name: entry for entry in found})


def entry(name: str) -> Entry:
    """The entry of a field by its full name, `model.moe_permute_fusion`. Raises UsageError if the table has none."""
    found = entries().get(name)
    if found is None:
        raise UsageError(
            f"Plumbline does not know what {quoted(name)} does: its table of fields, {TABLE.name}, has no line for it; "
            "leave it out, or set it in a plugin"
        )
    return found


def counts(names: Iterable[str] | None = None) -> Mapping[str, int]:
    """How many fields there are of each kind, every kind once; of all that the table has, or of these."""
    table = entries()
    seen = collections.Counter(table[name].kind for name in (table if names is None else names))
    return {kind: seen[kind] for kind in KINDS}


def _same(one: Value, other: Value) -> bool:
    """Equal, and of the same kind: 0 is not false."""
    return type(one) is type(other) and one == other


def _entry(name: str, line: Mapping[str, Any]) -> Entry:
    needs = line.get("needs", "")
    by_value = tuple(needs.items()) if isinstance(needs, dict) else ()
    rest = {key: line[key] for key in ("kind", "why", "formula", "lane", "option", "unread_by", "ranks") if key in line}
    if parent := line.get("with"):
        full = parent if "." in parent else f"{name.partition('.')[0]}.{parent}"
        rest |= {"with_field": full, "unread_at": tuple(line.get("unread_at", _AT_REST))}
    return Entry(name, only=tuple(line.get("only", ())), needs="" if by_value else needs, needs_of=by_value, **rest)

"""YAML with the line of each key, from anybody: nothing in it is run, and tags are names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.scalars import from_text
from validation.case.strangers import shown

_MOST_MERGED = 60
"""Mappings that one merges."""
_KEY = re.compile(r"(---|[\w.-]+:)(\s|$)")
"""How a line begins that only YAML has: the mark before a document, or a key."""


@dataclass(frozen=True)
class Entry:
    """A key with its value as YAML has it, and the file and line where it stands."""

    key: str
    node: yaml.Node
    place: str


def read(text: str, source: str) -> yaml.MappingNode | None:
    """The mapping at the top of the text; None where the text is no mapping of YAML.

    Raises UsageError for nesting too deep, and for what begins as only YAML does and is not one document of it.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        if _KEY.match(first_line(text)):
            raise UsageError(f"{source}{_why(error)}; write one document of YAML") from None
        return None
    except RecursionError:
        raise UsageError(f"{source}: it is nested too deep; give a flat file") from None
    return node if isinstance(node, yaml.MappingNode) else None


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")


def _why(error: yaml.YAMLError) -> str:
    """`, line 3: expected a single document in the stream but found another document`, as far as the error tells."""
    mark, *words = (getattr(error, name, None) for name in ("problem_mark", "context", "problem"))
    return (f", line {mark.line + 1}" if mark else "") + f": {' '.join(word for word in words if word) or 'it is no YAML'}"


def entries(node: yaml.Node, source: str) -> Iterator[Entry]:
    """The keys of a mapping that are text, in their order; merge keys (`<<`) are opened. Raises UsageError for a key twice."""
    seen: set[str] = set()
    for key, value in _pairs(node, set()):
        if not isinstance(key, yaml.ScalarNode):
            continue
        place = f"{source}:{key.start_mark.line + 1}"
        if key.value in seen:
            raise UsageError(f"{place}: {shown(key.value)} is there twice; keep one")
        seen.add(key.value)
        yield Entry(key.value, value, place)


def _pairs(node: yaml.Node, opened: set[int]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The keys of a mapping and of those that it merges, of which the first that has a key counts; each is `opened` once."""
    if not isinstance(node, yaml.MappingNode) or id(node) in opened:
        return
    opened.add(id(node))
    if len(opened) > _MOST_MERGED:
        raise UsageError(f"line {node.start_mark.line + 1}: more than {_MOST_MERGED} mappings are merged; write their keys out")
    seen = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value != "<<":
            yield key, value
            continue
        for merged in value.value if isinstance(value, yaml.SequenceNode) else (value,):
            pairs = [pair for pair in _pairs(merged, opened) if pair[0].value not in seen]
            seen |= {key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)}
            yield from pairs


def text_of(node: yaml.Node) -> str:
    """A scalar as it is written."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def scalar(node: yaml.ScalarNode) -> Value:
    """A scalar as OmegaConf types it, with which Megatron-Bridge reads YAML; one in quotes is text. Raises ValueError.

    Those are booleans and whole numbers of YAML 1.1, such as `no` and `0x10`, and 1e-3 is a number.
    """
    if node.style is not None:
        return str(node.value)
    kind, typed = node.tag.rpartition(":")[2], yaml.constructor.SafeConstructor()
    if kind == "bool":
        return bool(typed.construct_yaml_bool(node))
    return int(typed.construct_yaml_int(node)) if kind == "int" else from_text(node.value, lists=False)

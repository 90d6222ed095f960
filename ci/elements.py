"""XML elements as text, on lines of their own, as ElementTree indents them.

A run of the layouts of `nox -s parity` has 212,000 elements, with which junitparser and ElementTree took more than a second.
Names and texts must be what XML can hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MARGIN = "  "


def element(depth: int, name: str, attributes: Mapping[str, str], text: str = "", within: Sequence[str] = ()) -> str:
    """An element with `text`, or with the elements `within`, which are one deeper."""
    begin = f"{_MARGIN * depth}<{name}" + "".join(f' {key}="{_quoted(value)}"' for key, value in attributes.items())
    if within:
        return "\n".join((f"{begin}>", *within, f"{_MARGIN * depth}</{name}>"))
    return f"{begin}>{_escaped(text)}</{name}>" if text else f"{begin} />"


def properties(depth: int, values: Mapping[str, str]) -> list[str]:
    """The element with these properties; nothing if there are none."""
    margin = _MARGIN * (depth + 1)
    lines = [f'{margin}<property name="{_quoted(name)}" value="{_quoted(value)}" />' for name, value in values.items()]
    return [element(depth, "properties", {}, within=lines)] if lines else []


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(value: str) -> str:
    """The value of an attribute; a reader would make a space of a line end or a tab."""
    return _escaped(value).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#09;")

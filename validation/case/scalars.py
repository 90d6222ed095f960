"""Text as a value of YAML 1.2: a scalar, or a sequence of such. Texts may be a stranger's. No torch."""

from __future__ import annotations

import ast
import math
import re

import yaml

from validation.case.annotation import Value
from validation.case.plural import many
from validation.case.strangers import shown

_LONGEST = 20_000
"""Characters of a text."""
_DEEPEST = 8
_BRACKETS = 16
"""More than this that are left open: PyYAML takes seconds to say so."""
_MOST = 10_000
"""Items of a sequence."""
_REPEATED = re.compile(r"[\[\]()0-9,*+\s]*\*[\[\]()0-9,*+\s]*")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: 1e-3 is a number; on, off, yes and no are text. `None` and `inf` may be said as in Python."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node; refuses aliases, with which a few characters are a list without end."""
        if self.check_event(yaml.events.AliasEvent):
            raise ValueError("aliases are not read")
        return super().compose_node(parent, index)


_RESOLVED = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]{1,40}", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.?(inf|Inf|INF)|\.?(nan|NaN|NAN)",
        list("-+.0123456789inIN"),
    ),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _RESOLVED.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def from_text(text: str, lists: bool = True) -> Value:
    """The value; with `lists` also that of `([0]*3+[1]*58)`, as Megatron-LM's arguments write lists. Raises ValueError."""
    if len(text) > _LONGEST:
        raise ValueError(f"the text has {many(len(text), 'character')}, and no more than {_LONGEST} are read")
    if text.count("[") > _BRACKETS + text.count("]"):
        raise ValueError("it is not YAML")
    if lists and _REPEATED.fullmatch(text):
        return _repeated(text)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        raise ValueError("it is not YAML") from None
    return _value(node, _DEEPEST) if node is not None else None


def _value(node: yaml.Node, depth: int) -> Value:
    if isinstance(node, yaml.SequenceNode) and depth:
        if len(node.value) > _MOST:
            raise ValueError(f"a list of {many(len(node.value), 'item')}, and no more than {_MOST} are read")
        return tuple(_value(item, depth - 1) for item in node.value)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node.tag.rpartition(":")[2], node.value)
    raise ValueError("mappings are not read" if isinstance(node, yaml.MappingNode) else "it is nested too deep")


def _scalar(kind: str, text: str) -> Value:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    if kind == "float":
        return _number(text)
    if kind == "str":
        return text
    raise ValueError(f"YAML's {shown(kind)} is no value of a setting")


def _number(text: str) -> float:
    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if math.isnan(number):
        raise ValueError("NaN is equal to nothing")
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError("the number is too large for a float")
    return number


def _repeated(text: str) -> Value:
    """A sum of lists of whole numbers, each perhaps so many times: `[0]*3+[1]*58`. Nothing of it is run."""
    try:
        found = _summed(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("it is no list") from None
    if not isinstance(found, tuple):
        raise ValueError("it is no list")  # noqa: TRY004 - a sentence
    return found


def _summed(node: ast.expr) -> tuple[int, ...] | int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List):
        items = [_summed(item) for item in node.elts]
        if all(isinstance(item, int) for item in items):
            return tuple(item for item in items if isinstance(item, int))
    if isinstance(node, ast.BinOp):
        left, right = _summed(node.left), _summed(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, tuple) and isinstance(right, tuple):
            return _limited(len(left) + len(right)) and left + right
        if isinstance(node.op, ast.Mult) and isinstance(left, tuple) and isinstance(right, int):
            return _limited(len(left) * right) and left * right
    raise ValueError("lists may be added and repeated, as in [0]*3+[1]*58")


def _limited(items: int) -> bool:
    if items > _MOST:
        raise ValueError(f"a list of {many(items, 'item')}, and no more than {_MOST} are read")
    return True

"""Reads a megatron-core's source by `ast`: the fields of a dataclass, the arguments of a constructor. No torch."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from validation.case.annotation import Members
from validation.case.errors import UsageError
from validation.case.strangers import shown

_NO_FIELDS = ("ClassVar",)


@dataclass(frozen=True)
class Declaration:
    """A field or an argument: its annotation, and the text of its default, None if there is none.

    `members` are those of the enums that the annotation's module knows.
    """

    name: str
    annotation: ast.expr
    default: str | None
    members: Members


def fields(path: Path, name: str) -> list[Declaration]:
    """The fields of a dataclass in this file, inherited ones first; one that is declared again keeps its place.

    Raises UsageError if there is no such class.
    """
    found: dict[str, Declaration] = {}
    for origin, node in _lineage(_parsed(path), name):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _is_no_field(item):
                word = item.target.id
                found[word] = Declaration(word, item.annotation, _default(item.value), origin.members)
    return list(found.values())


def parameters(path: Path, name: str) -> list[Declaration]:
    """The arguments of a class's constructor, but for itself and the optimizer that it is given.

    Raises UsageError if there is no such class.
    """
    found = _parsed(path).class_of(name)
    body = found[1].body if found else []
    start = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if found is None or start is None:
        raise UsageError(f"{path} has no class {name} with an __init__; give a megatron-core of 0.12 or later")
    words = start.args.args
    defaults = [None] * (len(words) - len(start.args.defaults)) + [ast.unparse(node) for node in start.args.defaults]
    return [
        Declaration(word.arg, word.annotation or ast.Constant(...), default, found[0].members)
        for word, default in zip(words, defaults, strict=True)
        if word.arg not in ("self", "optimizer")
    ]


@dataclass(frozen=True)
class _Source:
    """A module of megatron-core, parsed."""

    path: Path
    tree: ast.Module

    def class_of(self, name: str, asked: frozenset[Path] = frozenset()) -> tuple[_Source, ast.ClassDef] | None:
        """The class that this module knows by the name, and the module that defines it; None for one of another package.

        `asked` are the modules that have imported it from here: two may import from each other.
        """
        if self.path in asked:
            return None
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self, node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name and (path := self._module(node)) is not None:
                        return _parsed(path).class_of(alias.name, asked | {self.path})
        return None

    def _module(self, node: ast.ImportFrom) -> Path | None:
        """The file of the module from which is imported, if it is one of megatron-core's."""
        words = (node.module or "").split(".") if node.module else []
        if node.level:
            folder = self.path.parents[node.level - 1]
        elif words[:2] == ["megatron", "core"]:
            folder, words = self._core(), words[2:]
        else:
            return None
        place = folder.joinpath(*words)
        return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)

    def _core(self) -> Path:
        return next(parent for parent in self.path.parents if parent.name == "core" and parent.parent.name == "megatron")

    def members(self, name: str) -> tuple[str, ...]:
        """The members of an enum of megatron-core's; none for what is none."""
        found = self.class_of(name) if name else None
        if found is None or not any("Enum" in ast.unparse(base) for base in found[1].bases):
            return ()
        return tuple(
            target.id
            for node in found[1].body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and not target.id.startswith("_")
        )


@functools.cache
def _parsed(path: Path) -> _Source:
    try:
        return _Source(path, ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({shown(str(error))}); give a megatron-core that is whole") from None


def _lineage(source: _Source, name: str) -> Iterator[tuple[_Source, ast.ClassDef]]:
    """The class and all that it inherits from megatron-core, the farthest first."""
    found = source.class_of(name)
    if found is None:
        raise UsageError(f"{source.path} has no class {name}; give a megatron-core of 0.12 or later")
    origin, node = found
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and origin.class_of(base.id) is not None:
            yield from _lineage(origin, base.id)
    yield origin, node


def _is_no_field(item: ast.AnnAssign) -> bool:
    return any(word in ast.unparse(item.annotation) for word in _NO_FIELDS)


def _default(node: ast.expr | None) -> str | None:
    """The text of a default; of `field(default=1)` that of 1, of `field(default_factory=list)` the call `list()`."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "field"):
        return None if node is None else ast.unparse(node)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
    return given.get("default") or (f"{given['default_factory']}()" if "default_factory" in given else None)

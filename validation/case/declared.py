"""Which fields upstream's configuration has: read from the source of a megatron-core, which is never imported. No torch.

A field is named by its section and upstream's own name: `model.moe_permute_fusion`. Sections are MLATransformerConfig with
all that it inherits, DistributedDataParallelConfig, OptimizerConfig, and the arguments of OptimizerParamScheduler.
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from validation import checkout
from validation.case import annotation
from validation.case.annotation import Either, Opaque, Type, Unfit, Value
from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.scalars import from_text
from validation.case.strangers import quoted, shown
from validation.case.suggestions import join

SECTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "model": ("transformer/transformer_config.py", "MLATransformerConfig"),
        "ddp": ("distributed/distributed_data_parallel_config.py", "DistributedDataParallelConfig"),
        "optimizer": ("optimizer/optimizer_config.py", "OptimizerConfig"),
        "scheduler": ("optimizer_param_scheduler.py", "OptimizerParamScheduler"),
    }
)
"""Section -> the file in megatron/core that has the class, and the class."""
_NEAREST = 3
_NO_FIELDS = ("ClassVar",)


@dataclass(frozen=True)
class Field:
    """A field as its class declares it; `default` is the text of it, None where there is none."""

    section: str
    name: str
    annotation: str
    default: str | None
    type: Type

    @property
    def full_name(self) -> str:
        """`model.moe_permute_fusion`."""
        return f"{self.section}.{self.name}"

    @property
    def from_text(self) -> bool:
        """Whether text can say a value of it; not so of functions and of objects of megatron-core's."""
        options = self.type.options if isinstance(self.type, Either) else (self.type,)
        return any(not isinstance(option, Opaque) and option != annotation.NONE for option in options)


Fields = Mapping[str, Field]
"""Full name -> field, section by section, in the order in which upstream declares them."""


def here() -> Fields:
    """The fields of the megatron-core that ranks run: the installed one, or that of `--megatron-path`.

    Raises EnvironmentMissing where there is none, UsageError where it cannot be read.
    """
    core = checkout.core()
    if core is None:
        raise EnvironmentMissing(
            "megatron-core is not installed; `pip install megatron-core` or --megatron-path brings its fields"
        )
    return declared(core)


@functools.cache
def declared(core: Path) -> Fields:
    """The fields of the megatron-core in this folder, `.../megatron/core`. Raises UsageError where a class is missing."""
    found: dict[str, Field] = {}
    for section, (file, name) in SECTIONS.items():
        read = _parameters if section == "scheduler" else _of_class
        for field in read(_Source.of(core / file), name, section):
            found[field.full_name] = field
    return MappingProxyType(found)


def find(fields: Fields, name: str) -> Field:
    """The field of this full name. Raises UsageError, which says the nearest names, and the section that has it."""
    if name in fields:
        return fields[name]
    section, dot, last = name.partition(".")
    same = [field.full_name for field in fields.values() if field.name == (last if dot else name)]
    if same:
        raise UsageError(f"there is no setting {quoted(name)}; {join(same, 'or')} is one")
    if not dot or section not in SECTIONS:
        near = _near(last if dot else name, {field.name: field.full_name for field in fields.values()})
        sections = f"a setting begins with {join([f'{one}.' for one in SECTIONS], 'or')}"
        raise UsageError(f"there is no setting {quoted(name)}; {sections}" + (f", such as {join(near, 'or')}" if near else ""))
    near = _near(last, {field.name: field.full_name for field in fields.values() if field.section == section})
    near = near or _near(last, {field.name: field.full_name for field in fields.values()})
    said = f"the nearest that this megatron-core has: {join(near, 'and')}" if near else "this megatron-core has nothing like it"
    raise UsageError(f"there is no setting {quoted(name)}; {said}")


def value(field: Field, text: str) -> Value:
    """The value that the text says, checked against the field's annotation. Raises UsageError.

    The text is a scalar or a sequence of YAML 1.2: `true`, `1e-3`, `null`, `[core_attn, moe]`. Lists may be written as
    Megatron-LM's arguments write them, too: `([0]*3+[1]*58)`. An enum is said by the name of its member, a dtype by torch's.
    """
    if not field.from_text:
        raise UsageError(f"{field.full_name} is {shown(str(field.type))}, which no text can say; set it in a plugin")
    lists = any(isinstance(part, annotation.Many) for part in annotation.parts(field.type))
    try:
        given = from_text(text, lists)
    except ValueError as error:
        raise UsageError(f"{field.full_name}={shown(text)}: {error}; it takes {field.type}") from None
    return checked(field, given, text)


def checked(field: Field, given: Value, said: str | None = None) -> Value:
    """The value as the field takes it: an int as a float where floats are meant. `said` is how it was given.

    Raises UsageError.
    """
    try:
        return field.type.fit(given)
    except Unfit as unfit:
        told = str(given) if said is None else said
        sentence = f"{field.full_name}={shown(told)}: it takes {shown(str(unfit))}"
        raise UsageError(f"{sentence}{_hint(field.type, given)}") from None


def _hint(kind: Type, given: Value) -> str:
    """What was probably meant, as the end of a sentence."""
    options = tuple(annotation.parts(kind))
    if isinstance(given, str) and annotation.Plain(bool) in options and given.lower() in ("on", "off", "yes", "no"):
        return f"; write {'true' if given.lower() in ('on', 'yes') else 'false'}"
    if isinstance(given, float) and given.is_integer() and annotation.Plain(int) in options:
        return f"; write {int(given)}" if abs(given) < 1e18 else ""
    if isinstance(given, str) and annotation.Many(annotation.Plain(str)) in options:
        return f"; write [{shown(given)}]" if given else ""
    words = [str(word) for part in options if isinstance(part, annotation.Words) for word in part.words]
    near = difflib.get_close_matches(str(given), words, 1)
    return f"; did you mean {near[0]}" if near else ""


def _near(name: str, names: Mapping[str, str]) -> list[str]:
    return [names[one] for one in difflib.get_close_matches(name, names, _NEAREST)]


@dataclass(frozen=True)
class _Source:
    """A module of megatron-core, parsed."""

    path: Path
    tree: ast.Module

    @classmethod
    def of(cls, path: Path) -> _Source:
        return _parsed(path)

    def class_of(self, name: str) -> tuple[_Source, ast.ClassDef] | None:
        """The class that this module knows by the name, and the module that defines it; None for one of another package."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self, node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name and (path := self._module(node)) is not None:
                        return _parsed(path).class_of(alias.name)
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


def _of_class(source: _Source, name: str, section: str) -> list[Field]:
    """The fields of a dataclass, inherited ones first; one that is declared again keeps its place, as with dataclasses."""
    found: dict[str, Field] = {}
    for origin, node in _lineage(source, name):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _is_no_field(item):
                found[item.target.id] = _field(section, item.target.id, item.annotation, _default(item.value), origin)
    return list(found.values())


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


def _parameters(source: _Source, name: str, section: str) -> list[Field]:
    """The parameters of a class's __init__, but for itself and the optimizer that it is given."""
    found = source.class_of(name)
    body = found[1].body if found else []
    start = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if found is None or start is None:
        raise UsageError(f"{source.path} has no class {name} with an __init__; give a megatron-core of 0.12 or later")
    words = start.args.args
    defaults = [None] * (len(words) - len(start.args.defaults)) + [ast.unparse(node) for node in start.args.defaults]
    return [
        _field(section, word.arg, word.annotation or ast.Constant(...), default, found[0])
        for word, default in zip(words, defaults, strict=True)
        if word.arg not in ("self", "optimizer")
    ]


def _field(section: str, name: str, node: ast.expr, default: str | None, source: _Source) -> Field:
    kind = annotation.read(node, source.members)
    # Some are annotated `int` and are None unless they are set.
    kind = annotation.either(kind, annotation.NONE) if default == "None" else kind
    return Field(section, name, ast.unparse(node), default, kind)

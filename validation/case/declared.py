"""Which fields upstream's configuration has: read from the source of a megatron-core, which is never imported. No torch.

A field is named by its section and upstream's own name: `model.moe_permute_fusion`. Sections are MLATransformerConfig with
all that it inherits, DistributedDataParallelConfig, OptimizerConfig, and the arguments of OptimizerParamScheduler.
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from validation import checkout
from validation.case import annotation, source
from validation.case.annotation import Either, Opaque, Type, Unfit, Value
from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.fields import entries
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


@dataclass(frozen=True)
class Field:
    """A field as its class declares it; `default` is the text of it, None if there is none."""

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

    Raises EnvironmentMissing if there is none, UsageError if it cannot be read.
    """
    core = checkout.core()
    if core is None:
        raise EnvironmentMissing(
            "megatron-core is not installed; `pip install megatron-core` or --megatron-path brings its fields"
        )
    return declared(core)


@functools.cache
def declared(core: Path) -> Fields:
    """The fields of the megatron-core in this folder, `.../megatron/core`. Raises UsageError if a class is missing."""
    found: dict[str, Field] = {}
    for section, (file, name) in SECTIONS.items():
        read = source.parameters if section == "scheduler" else source.fields
        for one in read(core / file, name):
            field = _field(section, one)
            found[field.full_name] = field
    return MappingProxyType(found)


def find(fields: Fields, name: str) -> Field:
    """The field of this full name. Raises UsageError, which says the nearest names, and the section or release that has it."""
    if name in fields:
        return fields[name]
    section, dot, last = name.partition(".")
    same = [field.full_name for field in fields.values() if field.name == (last if dot else name)]
    if same:
        raise UsageError(f"there is no setting {quoted(name)}; {join(same, 'or')} is one")
    if elsewhere := [full for full in entries() if full == name or (not dot and full.partition(".")[2] == name)]:
        raise UsageError(f"this megatron-core has no {join(elsewhere, 'or')}; docs/fields.md says which releases have it")
    if not dot or section not in SECTIONS:
        near = _near(last if dot else name, {field.name: field.full_name for field in fields.values()})
        sections = f"a setting begins with {join([f'{one}.' for one in SECTIONS], 'or')}"
        raise UsageError(f"there is no setting {quoted(name)}; {sections}" + (f", such as {join(near, 'or')}" if near else ""))
    near = _near(last, {field.name: field.full_name for field in fields.values() if field.section == section})
    near = near or _near(last, {field.name: field.full_name for field in fields.values()})
    said = f"the nearest that this megatron-core has: {join(near, 'and')}" if near else "this megatron-core has nothing like it"
    raise UsageError(f"there is no setting {quoted(name)}; {said}")


def initial(field: Field) -> Value:
    """The value of a field that nothing sets. Raises UsageError if it must be set, or if no text can say the value."""
    if field.default is None:
        raise UsageError(f"{field.full_name} has no default; give it a value")
    try:
        return field.type.fit(annotation.constant(ast.parse(field.default, mode="eval").body))
    except (Unfit, ValueError, SyntaxError):
        raise UsageError(f"the default of {field.full_name}, {shown(field.default)}, is none that text can say") from None


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
    """The value as the field takes it: an int as a float if floats are meant. `said` is how it was given.

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
    if isinstance(given, str) and _fits(kind, from_text(given)):
        return "; this is text: write it without quotes"
    if isinstance(given, float) and given.is_integer() and annotation.Plain(int) in options:
        return f"; write {int(given)}" if abs(given) < 1e18 else ""
    if isinstance(given, str) and annotation.Many(annotation.Plain(str)) in options:
        return f"; write [{shown(given)}]" if given else ""
    words = [str(word) for part in options if isinstance(part, annotation.Words) for word in part.words]
    near = difflib.get_close_matches(str(given), words, 1)
    return f"; did you mean {near[0]}" if near else ""


def _fits(kind: Type, given: Value) -> bool:
    try:
        kind.fit(given)
    except Unfit:
        return False
    return True


def _near(name: str, names: Mapping[str, str]) -> list[str]:
    return [names[one] for one in difflib.get_close_matches(name, names, _NEAREST)]


def _field(section: str, declaration: source.Declaration) -> Field:
    kind = annotation.read(declaration.annotation, declaration.members)
    # Some are annotated `int` and are None unless they are set.
    kind = annotation.either(kind, annotation.NONE) if declaration.default == "None" else kind
    return Field(section, declaration.name, ast.unparse(declaration.annotation), declaration.default, kind)

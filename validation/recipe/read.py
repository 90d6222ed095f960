"""Whatever kind of file a recipe is in, told by its content."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path

import yaml

from validation.case import tree
from validation.case.errors import UsageError
from validation.case.strangers import read_bytes
from validation.recipe import bridge, flags, functional, kinds, parser, yaml_file
from validation.recipe.kinds import Kind
from validation.recipe.recipe import Recipe
from validation.recipe.words import command, cut

_MOST_BYTES = 1 << 20
PYTHON = "have it print the flags to a file, or write Megatron-Bridge's configuration with ConfigContainer.to_yaml"
"""What to do with a launcher that is written in Python."""
_ARGUMENTS = frozenset({"disable_bias_linear", "norm_epsilon", "num_experts", "swiglu"})
"""Names of Megatron-LM's arguments for what fields call otherwise."""
_REMEDY = "give a file of flags, a model_config.yaml of Megatron-LM's functional tests, or Megatron-Bridge's YAML"


def read(path: Path, release: str | None = None, checkout: Path | None = None, world: int | None = None) -> Recipe:
    """The recipe in a file.

    `release` says whose defaults count where a flag is not given: the installed megatron-core's if it is None. With a
    checkout of Megatron-LM its own parser reads the flags. Raises UsageError.
    """
    if world is not None and world < 1:
        raise UsageError(f"--world-size {world}: at least one rank trains; give a number from 1")
    text = _text(path)
    source = path.name
    wanted = release or installed()
    if path.suffix != ".py" and kinds.is_prose(text):
        raise UsageError(f"{source} is prose, which says no flags; {_REMEDY}")
    top = yaml_file.read(text, source) if _may_be_yaml(text) else None
    if top is not None and (written := _kind(top, source)) is not None:
        if written == "bridge":
            return bridge.recipe(top, source, wanted, world)
        line = functional.command(top, source)
        return flags.recipe(line, source, "model_config.yaml of a functional test", wanted, checkout, world=world)
    words = () if path.suffix == ".py" else cut(text, source)
    kind = Kind.PYTHON if path.suffix == ".py" else kinds.of(text, words)
    if kind is Kind.PYTHON:
        raise UsageError(f"{source} is a program in Python, which is not followed: {PYTHON}")
    if kind is Kind.SHELL:
        raise UsageError(
            f"{source} is a launch script, which must run to say its flags: {tree.VALIDATION} recipe capture -o flags.txt -- "
            f"bash {shlex.quote(str(path))} writes them, without training, to the file that is read instead"
        )
    if kind is not Kind.FLAGS:
        raise UsageError(f"{source} has no flag in it; {_REMEDY}")
    return flags.recipe(command(words), source, "a file of flags", wanted, checkout, world=world)


def installed() -> str:
    """The release whose parser goes with the installed megatron-core, or the newest."""
    try:
        return parser.nearest(metadata.version("megatron-core"))
    except metadata.PackageNotFoundError:
        return [name for name in parser.releases() if name[0].isdigit()][-1]


def _text(path: Path) -> str:
    data = read_bytes(path, _MOST_BYTES, _REMEDY)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text (byte {error.start} is not UTF-8); {_REMEDY}") from None
    if "\0" in text:
        raise UsageError(f"{path} is no text (it has a byte 0); {_REMEDY}")
    return text.replace("\r\n", "\n")


def _may_be_yaml(text: str) -> bool:
    """Whether a key and a colon begin the first line that says something; a file of flags has no such line."""
    first = yaml_file.first_line(text)
    return first.startswith(("---", "{")) or ":" in first


def _kind(top: yaml.MappingNode, source: str) -> str | None:
    found = {entry.key: entry.node for entry in yaml_file.entries(top, source)}
    if functional.KEY in found or (found and all(key.startswith("--") for key in found)):
        return "functional"
    if any(isinstance(found.get(section), yaml.MappingNode) for section in bridge.SECTIONS):
        if own := _ARGUMENTS & {entry.key for entry in yaml_file.entries(found.get("model", top), source)}:
            raise UsageError(
                f"{source} has arguments of Megatron-LM in its YAML ({', '.join(sorted(own))}), as FlagScale does, and no "
                "fields of Megatron-Bridge; give a file of flags (FlagScale's action=dryrun writes a script that has them)"
            )
        return "bridge"
    raise UsageError(f"{source} is YAML without {functional.KEY} and without {', '.join(bridge.SECTIONS)}; {_REMEDY}")

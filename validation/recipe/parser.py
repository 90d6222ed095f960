"""Megatron-LM's arguments by release: its parser's options with their defaults, and the fields of its configurations.

`parsers.json` is made from checkouts (`python -m validation.recipe.parser NAME=FOLDER ...`). It holds facts about the flags:
names, kinds and defaults. Each release after the first is written as what changes against the one before.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.strangers import one_line, shown

FILE = Path(__file__).with_name("parsers.json")
SECTIONS = ("model", "ddp", "optimizer", "scheduler")
"""The four configurations of upstream whose fields are settings."""
ARGUMENTS = Path("megatron", "training", "arguments.py")
"""What a checkout of Megatron-LM has and a folder of megatron-core alone has not."""
FORKS = "forks"
"""The group of options that no release has."""
_SET_OTHERWISE = ("inference_sampling_seed",)
"""Numbers of the model that Megatron-LM sets by an argument of another name."""
_SECONDS = 300.0
"""For a checkout to be imported."""


@dataclass(frozen=True)
class Option:
    """One option of the parser: argparse's own words.

    `action` is store, true, false, const, append or boolean; `nargs` as argparse has it; `kind` the name of the type.
    """

    flags: tuple[str, ...]
    dest: str
    group: str = ""
    action: str = "store"
    nargs: int | str | None = None
    kind: str = "str"
    choices: tuple[Any, ...] = ()
    default: Any = None
    const: Any = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Option:
        """The option that `describe.py` wrote."""
        action = said.get("action", "store")
        usual = {"nargs": 0, "const": action == "true", "default": action == "false"} if action in ("true", "false") else {}
        found = usual | {name: value for name, value in said.items() if name != "type"}
        found |= {"flags": tuple(said["flags"]), "choices": tuple(said.get("choices") or ()), "kind": said.get("type", "str")}
        return cls(**found)

    @property
    def takes_values(self) -> bool:
        """Whether words may follow it."""
        return self.nargs != 0


@dataclass(frozen=True)
class Parser:
    """What one release, or a checkout, knows: options by flag, and the dataclasses' defaults by section and field."""

    name: str
    options: tuple[Option, ...]
    fields: Mapping[str, Mapping[str, Any]]

    @functools.cached_property
    def by_flag(self) -> Mapping[str, Option]:
        """Each spelling of a flag."""
        return {flag: option for option in self.options for flag in option.flags}

    @functools.cached_property
    def by_dest(self) -> Mapping[str, Option]:
        """Each argument by the name that the training program reads; the first of several flags of one."""
        found: dict[str, Option] = {}
        for option in self.options:
            found.setdefault(option.dest, option)
        return found

    def with_options(self, options: Sequence[Option], *, by_name: bool = False) -> Parser:
        """The same with options of a fork, and with one for each number of the model that has none, unless names are enough."""
        if by_name:
            return replace(self, options=(*self.options, *options))
        numbers = {name: value for name, value in self.fields["model"].items() if type(value) in (int, float)}
        own = [
            Option(("--" + name.replace("_", "-"),), name, group=FORKS, kind=type(value).__name__, default=value)
            for name, value in numbers.items()
            if name not in self.by_dest and name not in _SET_OTHERWISE
        ]
        return replace(self, options=(*self.options, *options, *own))

    @functools.cached_property
    def field_names(self) -> frozenset[str]:
        """Fields of any of the four configurations."""
        return frozenset(name for section in self.fields.values() for name in section)


@functools.cache
def _file() -> list[dict[str, Any]]:
    return list(json.loads(FILE.read_text())["releases"])


def releases() -> tuple[str, ...]:
    """The releases that are known without a checkout, oldest first, then the branches."""
    return tuple(release["name"] for release in _file())


@functools.cache
def release(name: str) -> Parser:
    """The parser of a release. Raises UsageError for one that is not known."""
    if name not in releases():
        raise UsageError(f"no parser of Megatron-LM {shown(name)} is known; known are {', '.join(releases())}")
    options: dict[str, Any] = {}
    fields: dict[str, dict[str, Any]] = {}
    for one in _file():
        options = _changed(options, one["options"])
        fields = {section: _changed(fields.get(section, {}), one["fields"][section]) for section in SECTIONS}
        if one["name"] == name:
            break
    return Parser(name, tuple(map(Option.of, options.values())), fields)


def with_flag(flag: str) -> str:
    """The oldest known release whose parser has a flag; nothing if none has."""
    return next((name for name in releases() if flag in release(name).by_flag), "")


def nearest(version: str) -> str:
    """The newest known release that is not newer than `version`; the oldest for one that is older than all."""
    numbered = [name for name in releases() if name[0].isdigit()]
    wanted = _numbers(version)
    return next((name for name in reversed(numbered) if _numbers(name)[:2] <= wanted[:2]), numbered[0])


def is_before(name: str, version: str) -> bool:
    """Whether a release is older than `version`. A branch is not, nor is a checkout, which has no number here."""
    return name[0].isdigit() and _numbers(name)[:2] < _numbers(version)[:2]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def _changed(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    gone = change.get("-", ())
    return {name: value for name, value in before.items() if name not in gone} | dict(change["+"])


@dataclass(frozen=True)
class Read:
    """What a checkout's own parser made of words: values by argument, and the words that it does not know."""

    parser: Parser
    values: Mapping[str, Any]
    unknown: tuple[str, ...]


def checkout(folder: Path, words: Sequence[str] = ()) -> Read:
    """What the parser in a checkout of Megatron-LM says of the words.

    The checkout is imported in a process of its own. Raises UsageError for a folder without a parser and for words that it
    refuses, EnvironmentMissing if it cannot be imported.
    """
    if not (folder / ARGUMENTS).is_file():
        raise UsageError(f"{folder} has no {ARGUMENTS}; give a checkout of Megatron-LM, or leave it out")
    said = _described(folder, words)
    parser = _parser_of(str(folder), said)
    read = said["read"]
    if "refused" in read:
        raise UsageError(f"the parser of {folder} refuses the flags: {one_line(read['refused'])}")
    return Read(parser, read["values"], tuple(read["unknown"]))


def _described(folder: Path, words: Sequence[str] | None) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("describe.py")), str(folder)]
    text = "" if words is None else json.dumps(list(words))
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EnvironmentMissing(
            f"the parser of {folder} did not answer within {_SECONDS:.0f} s; leave the checkout out"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise EnvironmentMissing(f"the parser of {folder} cannot be imported ({one_line(last)}); mend that, or leave it out")
    return dict(json.loads(done.stdout))


def _parser_of(name: str, said: Mapping[str, Any]) -> Parser:
    return Parser(name, tuple(map(Option.of, said["options"])), said["fields"])


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    change: dict[str, Any] = {
        "+": {name: value for name, value in after.items() if name not in before or before[name] != value}
    }
    gone = sorted(name for name in before if name not in after)
    return change | ({"-": gone} if gone else {})


def _releases_of(folders: Sequence[str]) -> Iterator[dict[str, Any]]:
    options: dict[str, Any] = {}
    fields: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for word in folders:
        name, _, folder = word.partition("=")
        said = _described(Path(folder), None)
        now = {option["flags"][0]: option for option in said["options"]}
        changes = {section: _change(fields[section], said["fields"][section]) for section in SECTIONS}
        yield {"name": name, "fields": changes, "options": _change(options, now)}
        options, fields = now, said["fields"]


def main(folders: Sequence[str]) -> int:
    """Write FILE from checkouts, `NAME=FOLDER` each, oldest first."""
    text = json.dumps({"releases": list(_releases_of(folders))}, sort_keys=False)
    FILE.write_text(text.replace('}, "--', '},\n"--').replace('"+": {', '"+": {\n').replace('{"name"', '\n{"name"') + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The one table (ci/matrix.yaml): what runs where. Imports no torch.

Sessions, the workflow's matrix, the manifest and docs/matrix.md all come from here. Where a team calls the workflow with
layouts or a recipe of its own, one row made of its inputs stands in the table's place (ci/caller.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from ci import caller
from validation.case import inference, life, preflight, vocabulary
from validation.case.arrangement import parse
from validation.case.case import DEFAULT_SEED, ON_CPU, Case
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.preset import preset
from validation.case.training import Training

TABLE = Path(__file__).with_name("matrix.yaml")
ROOT = Path(__file__).parents[1]
EVENTS = ("pull_request", "merge_group", "nightly", caller.EVENT)


@dataclass(frozen=True)
class Row:
    """One session that compares: what, and on what machine. `set` has numbers of the preset's model that are others, each as
    `name=value`. `timeout` is in minutes. `inference` is the context of cases that infer instead of taking a training step,
    `steps` the number of optimizer steps. With more than one of `nodes` the session is a job of Slurm.

    `recipe` is the file of a recipe, from the root of the repository, which says model, layout and precision. Its `preset`,
    `layouts` and `precision` are empty. `world_size` is the recipe's number of ranks, if the file does not say it, and
    `coverage` the share of its settings that must be equal.
    """

    session: str
    does: str
    preset: str
    layouts: tuple[str, ...]
    precision: str
    implementation: str
    transport: str
    runner: tuple[str, ...]
    when: tuple[str, ...]
    timeout: int
    set: tuple[str, ...] = ()
    inference: str = ""
    steps: int | None = None
    nodes: int = 1
    recipe: str = ""
    world_size: int | None = None
    coverage: float | None = None

    @property
    def gpus(self) -> int:
        """GPUs that the largest layout needs; 0 on the CPU, and 1 where ranks share them."""
        if self.transport in ON_CPU:
            return 0
        return max(parse(name, Training())[0].ranks for name in self.layouts) if self.transport == "nccl" else 1

    def arguments(self) -> list[str]:
        """The command line after `python -m validation`."""
        chosen = {
            "preset": self.preset,
            "layouts": ",".join(self.layouts),
            "recipe": self.recipe,
            "world-size": str(self.world_size or ""),
            "precision": self.precision,
            "implementation": self.implementation,
            "transport": self.transport,
            "inference": self.inference,
            "steps": "" if self.steps is None else str(self.steps),
        }
        given = [*chosen.items(), *(("set", number) for number in self.set)]
        return ["run", *(word for name, value in given if value for word in (f"--{name}", value))]

    def command(self) -> list[str]:
        """The same, or what submits it as a job of Slurm. Words may follow."""
        if self.nodes == 1:
            return self.arguments()
        return ["slurm", "run", "--nodes", str(self.nodes), "--", *self.arguments()[1:]]


@dataclass(frozen=True)
class Tool:
    """One session that compares nothing, such as lint: it passes or fails, and the manifest asks nothing of it."""

    session: str
    does: str
    runner: tuple[str, ...]
    when: tuple[str, ...]
    timeout: int
    gpus: ClassVar[int] = 0
    nodes: ClassVar[int] = 1


Session = TypeVar("Session", Row, Tool)


def rows(table: Path | None = None) -> list[Row]:
    """Every session that compares, in the table's order. Raises UsageError, naming the row, for anything out of order."""
    name, content = _content(table)
    entries = content.get("rows")
    if not entries or not isinstance(entries, list):
        raise UsageError(f"{name}: there is no list of `rows`; write one row for each session")
    return _read(name, entries, _expanded)


def tools(table: Path | None = None) -> list[Tool]:
    """Every session that compares nothing; a table need not have any."""
    name, content = _content(table)
    entries = content.get("tools") or []
    if not isinstance(entries, list):
        raise UsageError(f"{name}: `tools` is {entries!r}; it must be a list of sessions")
    return _read(name, entries, _tool)


def running() -> frozenset[str] | None:
    """The sessions of ci/matrix.yaml that some event runs.

    None where a caller's layouts stand in its place: another call of the same team, such as its nightly one, may have others.
    """
    return None if caller.row(os.environ) else frozenset(row.session for row in rows() if row.when)


def _content(table: Path | None) -> tuple[str, dict[str, Any]]:
    """What the sessions come from, by name: the caller's inputs where no table is named and there are some."""
    asked = caller.row(os.environ) if table is None else None
    if asked:
        return "the workflow's inputs", {"rows": [asked]}
    path = table or TABLE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{path.name}: not YAML ({' '.join(str(error).split())})") from None
    return path.name, content if isinstance(content, dict) else {}


def _read(table: str, entries: list[Any], make: Callable[[Any], list[Session]]) -> list[Session]:
    """What the entries are made into; what is wrong with one is said with its name."""
    found: list[Session] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("session", f"row {number}") if isinstance(entry, dict) else f"row {number}"
        try:
            found += make(entry)
        except UsageError as error:
            raise UsageError(f"{table}: {name}: {error}") from None
    names = [one.session for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{table}: session {twice} is there twice; give each a name of its own")
    return found


def _tool(entry: Any) -> list[Tool]:
    names = {field.name for field in fields(Tool)}
    _well_formed(entry, names, names)
    return [Tool(**{**entry, "runner": tuple(entry["runner"]), "when": _events(entry["when"])})]


_OF_A_MODEL = {"preset", "layouts", "precision", "set", "inference", "steps"}
"""Keys of a row that a recipe says itself."""
_OF_A_RECIPE = {"recipe", "world_size", "coverage"}


def _expanded(entry: Any) -> list[Row]:
    names = {field.name for field in fields(Row)} - _OF_A_RECIPE
    if isinstance(entry, dict) and "recipe" in entry:
        known = (names - _OF_A_MODEL) | _OF_A_RECIPE
        _well_formed(entry, known, known - {"world_size", "coverage", "nodes"})
        return [_of_recipe(entry)]
    _well_formed(entry, names | {"each"}, names - {"layouts", "set", "inference", "steps", "nodes"})
    if ("each" in entry) == ("layouts" in entry):
        raise UsageError("give either `layouts`, for one session, or `each`, for one session per layout")
    if "layouts" in entry:
        return [_row(entry, entry["layouts"])]
    if "{layout}" not in entry["session"]:
        raise UsageError("a row with `each` is several sessions; put {layout} into its session name")
    rest = {key: value for key, value in entry.items() if key != "each"}
    return [_row(_filled(rest, layout), [layout]) for layout in entry["each"]]


def _of_recipe(entry: dict[str, Any]) -> Row:
    """The row of a recipe. Its number of ranks is not known here, so that each GPU of a layout cannot be counted."""
    if entry["transport"] == "nccl":
        raise UsageError("a row with `recipe` has transport gloo, or staged on one GPU; nccl is for `layouts`")
    if not (ROOT / entry["recipe"]).is_file():
        raise UsageError(f"recipe {entry['recipe']} is no file of the repository; give its path from the root")
    said = {**dict.fromkeys(("preset", "precision"), ""), "layouts": ()}
    return _labelled(Row(**{**entry, **said, "runner": tuple(entry["runner"]), "when": _events(entry["when"])}))


def _labelled(row: Row) -> Row:
    return replace(row, runner=tuple(label.replace("{gpus}", str(row.gpus)) for label in row.runner))


def _well_formed(entry: Any, known: set[str], needed: set[str]) -> None:
    """The keys are those of a row, each with a value of its kind."""
    if not isinstance(entry, dict):
        raise UsageError(f"{entry!r} is no row; a row is a mapping")
    if unknown := sorted(set(entry) - known, key=str):
        raise UsageError(f"{unknown[0]} is unknown; a row has {', '.join(sorted(known))}")
    if missing := sorted(needed - set(entry)):
        raise UsageError(f"{missing[0]} is missing; a row has {', '.join(sorted(known))}")
    for key, value in entry.items():
        if not _KINDS.get(key, _is_text)(value):
            raise UsageError(f"{key} is {value!r}; it must be {_SAID.get(key, 'text')}")


def _filled(entry: dict[str, Any], layout: str) -> dict[str, Any]:
    ranks = parse(layout, Training())[0].ranks
    words = {"{layout}": layout, "{ranks}": many(ranks, "rank")}
    filled = dict(entry)
    for key in ("session", "does"):
        for word, value in words.items():
            filled[key] = filled[key].replace(word, value)
    return filled


def _row(entry: dict[str, Any], layouts: list[str]) -> Row:
    if twice := [layout for layout in layouts if layouts.count(layout) > 1]:
        raise UsageError(f"layout {twice[0]} is there twice; give each layout once")
    lists = {"layouts": tuple(layouts), "runner": tuple(entry["runner"]), "when": _events(entry["when"])}
    lists["set"] = tuple(entry.get("set", ()))
    row = Row(**{**entry, **lists})
    for layout in layouts:
        _possible(row, layout)
    return _labelled(row)


def _events(when: Iterable[str]) -> tuple[str, ...]:
    if strange := [event for event in when if event not in EVENTS]:
        raise UsageError(f"event {strange[0]!r} is unknown; known are {', '.join(EVENTS)}")
    return tuple(when)


def _possible(row: Row, name: str) -> None:
    """Raises UsageError for a case that no machine could run: an unknown word, a degree that does not divide."""
    base = preset(row.preset)
    model = base.model.with_numbers(dict(_numbers(row)))
    layout, training, mtp = parse(name, Training(row.steps or 0, inference=row.inference or Training().inference))
    case = Case(
        preset=base.name,
        model=vocabulary.padded(model if mtp is None else replace(model, num_nextn_predict_layers=mtp), layout, training),
        layout=layout,
        precision=row.precision,
        implementation=row.implementation,
        transport=row.transport,
        seed=DEFAULT_SEED,
        batch_size=inference.usual_batch_size(base.batch_size, layout, training),
        micro_batch_size=1,
        seq_length=inference.usual_seq_length(base.seq_length, training),
        training=training,
    )
    preflight.check(case, max_ranks=layout.ranks, gpus=layout.ranks, memory=None)
    if sentence := life.on_nodes(training.life, row.nodes):
        raise UsageError(f"{name}: {sentence}")
    if row.nodes > layout.ranks:
        ranks = many(layout.ranks, "rank")
        raise UsageError(f"nodes is {row.nodes} and {name} has {ranks}; a node without a rank compares nothing")


def _numbers(row: Row) -> Iterator[tuple[str, str]]:
    for number in row.set:
        name, equals, value = number.partition("=")
        if not equals:
            raise UsageError(f"set has {number!r}; write a number of the model as name=value, such as rms_norm_eps=1e-5")
        yield name, value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_KINDS: dict[str, Callable[[object], bool]] = {
    "layouts": lambda value: _is_list(value) and bool(value),
    "each": lambda value: _is_list(value) and bool(value),
    "runner": lambda value: _is_list(value) and bool(value),
    "set": lambda value: _is_list(value) and bool(value),
    "when": _is_list,
    "timeout": lambda value: type(value) is int and value > 0,
    "nodes": lambda value: type(value) is int and value > 0,
    "steps": lambda value: type(value) is int and value >= 0,
    "world_size": lambda value: type(value) is int and value > 0,
    "coverage": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1,
}
_SAID = dict.fromkeys(_KINDS, "a list of words") | {
    "timeout": "a whole number of minutes",
    "nodes": "a number of nodes",
    "steps": "a number of optimizer steps",
    "world_size": "a number of ranks",
    "coverage": "a share from 0 to 1",
}

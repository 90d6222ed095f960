"""Known upstream bugs: checks that must fail until upstream is mended."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import CodeType
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

from validation.case import life
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.data import DOCUMENTS
from validation.case.layout import Layout
from validation.case.pipeline_layout import chunk_layers, mtp_beside_loss
from validation.case.settings import SECTIONS
from validation.machine import ABSENT
from validation.machine import version as version_of
from validation.recipe.beyond import MASK

TABLE = Path(__file__).with_name("known.yaml")
_SETTING = re.compile(rf"\b({'|'.join(SECTIONS)})\('(\w+)'\)")
"""As a condition of the table names a field."""

_OF_STEP = re.compile(r"steps/(\d+)/")


@dataclass(frozen=True)
class Known:
    """One entry of the table. `layouts` is a condition on layout and model, `at_most` the largest relative error that the bug
    makes, a number or a formula of the same names; the other patterns are those of file names. `others` are implementations
    that may have the bug and need not. `given` says that every run has the reference's value in its place: no second run
    judges it. `instead` is what works where the bug leaves no run to compare, and `nearest` are settings
    with which there may be one, the nearest first. `transformer_engine` are the versions of that which show it, empty for all.
    """

    id: str
    what: str
    link: str
    finding: str
    layouts: str
    implementations: tuple[str, ...]
    megatron_core: str
    checks: tuple[str, ...]
    spoils: tuple[str, ...]
    at_most: str
    keeps: tuple[str, ...] = ()
    instead: str = ""
    nearest: tuple[Mapping[str, Value], ...] = field(default=(), hash=False)
    others: tuple[str, ...] = ()
    given: bool = False
    transformer_engine: str = ""

    def applies(self, case: Case, version: str) -> bool:
        """Whether the bug is in this version of megatron-core, with what is installed beside it, and shows in this case."""
        return _is_in(self.megatron_core, version) and self.concerns(case) and self._with_transformer_engine()

    def _with_transformer_engine(self) -> bool:
        return not self.transformer_engine or _is_in(self.transformer_engine, version_of("transformer-engine"))

    def concerns(self, case: Case) -> bool:
        """Whether a version that has the bug shows it in this case."""
        return _matches(case.implementation, (*self.implementations, *self.others)) and self._shows(case)

    def _shows(self, case: Case) -> bool:
        return any(_value(self.layouts, part) for part in ((case,) if not case.training.life else lived(case)))

    def largest(self, case: Case) -> float:
        """The largest relative error that the bug makes in this case: what is further off is not excused."""
        plain = _plain(self.at_most)
        return float(_value(self.at_most, case)) if plain is None else plain

    def unlimited(self, case: Case) -> bool:
        """Whether the bug computes with whatever stands in the memory: that may be no number, or end a rank."""
        return self.largest(case) == math.inf

    def makes(self, case: Case, error: float) -> bool:
        """Whether the bug can make a relative error as large as this, which may be no number."""
        return self.unlimited(case) or error <= self.largest(case)

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings of a recipe that show it: `model.cross_entropy_loss_fusion`."""
        documents = (MASK,) if f"'{DOCUMENTS}'" in self.layouts else ()
        return (*(f"{section}.{name}" for section, name in _SETTING.findall(self.layouts)), *documents)

    def must_fail(self, case: Case, check: str) -> bool:
        """Whether this check shows the bug, whatever else is right.

        Not if modules are isolated, for the reference's gradients go on behind the bug; nor with a user's own tokens, among
        which may be none that the bug needs; and only in fp64, for in the lower precisions a small model's share of the bug
        may be below rounding.
        """
        hidden = case.isolated or (case.data and not self.given) or case.precision != "fp64"
        surely = not hidden and _matches(case.implementation, self.implementations)
        return surely and _matches(check, self.checks) and self._is_there(case, check, once=False)

    def excuses(self, case: Case, check: str) -> bool:
        """Whether this check shows the bug, or may fail as a consequence: not before the layout is there that shows it."""
        found = _matches(check, self.checks) or (_matches(check, self.spoils) and not self._keeps(case, check))
        return found and self._is_there(case, check, once=True)

    def _is_there(self, case: Case, check: str, *, once: bool) -> bool:
        """Whether the layout at this part of the case's life shows it, or `once` one before did."""
        if not case.training.life:
            return True  # one layout, and the bug concerns the case
        shown, at = _shown(self.layouts, case), _part(case, check)
        return any(shown[: at + 1]) if once else shown[at]

    def _keeps(self, case: Case, check: str) -> bool:
        if case.model.num_nextn_predict_layers:
            return False
        return _matches(check, [pattern.format(last=case.model.num_hidden_layers - 1) for pattern in self.keeps])


@functools.cache
def lived(case: Case) -> tuple[Case, ...]:
    """The case in the layout of each part of its life: before any step, and then at each step. One part without a life."""
    parts, now = [case], case
    for event in life.parse(case.training.life):
        if event.layout:
            now = replace(now, layout=Layout.parse(event.layout))
        if event.kind == life.STEP:
            parts.append(now)
    return tuple(parts)


@functools.cache
def _shown(layouts: str, case: Case) -> tuple[bool, ...]:
    """Whether a condition on layouts holds in each part of the case's life."""
    return tuple(bool(_value(layouts, part)) for part in lived(case))


def _part(case: Case, check: str) -> int:
    """The part of the case's life that a check is of."""
    step = _OF_STEP.match(check)
    return min(int(step[1]), len(lived(case)) - 1) if step else 0


@functools.cache
def _plain(formula: str) -> float | None:
    """A formula that is a number; None for another. Every check of a case asks for it several times."""
    try:
        return float(formula)
    except ValueError:
        return None


def _value(formula: str, case: Case) -> Any:
    """What a formula of the table comes to. The table is ours, as much as any module."""
    return eval(_code(formula), dict(_names(case)))


@functools.cache
def _code(formula: str) -> CodeType:
    return compile(formula.strip(), "<known.yaml>", "eval")


@functools.lru_cache(64)
def _names(case: Case) -> Mapping[str, Any]:
    """What formulas of the table may say about a case: twenty of them are asked of each."""
    layout = case.layout
    names: dict[str, Any] = {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp, "ep": layout.ep, "cp": layout.cp}
    names |= {"etp": layout.expert_tp, "dp": layout.data_parallel, "sequence_parallel": layout.uses_sequence_parallel}
    names |= {
        "implementation": case.implementation,
        "precision": case.precision,
        "micro_batch_size": case.micro_batch_size,
    } | asdict(case.training)
    names |= {"chunks": lambda: chunk_layers(case), "inf": math.inf, "experts": bool(case.model.expert_blocks)}
    names |= {"changes": lambda condition: _changes(str(condition), case)}
    names |= {"mtp": case.model.num_nextn_predict_layers, "tied": case.model.tie_word_embeddings}
    names |= {"mtp_beside_loss": lambda: mtp_beside_loss(case)}
    names |= {section: case.training.effective(section).get for section in SECTIONS}
    return {"__builtins__": {"abs": abs, "any": any}} | names | asdict(case.model)


def _changes(condition: str, case: Case) -> bool:
    """Whether a condition on layouts holds in some of those that the case's life goes through, and not in all."""
    through = (case.layout, *life.layouts(case.training.life))
    return len({bool(_value(condition, replace(case, layout=layout))) for layout in through}) > 1


def _is_in(versions: str, version: str) -> bool:
    """Whether a version, which may be absent, is one of these."""
    return version != ABSENT and SpecifierSet(versions).contains(version, prereleases=True)


def _matches(check: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(check, pattern) for pattern in patterns)


@functools.cache
def table() -> tuple[Known, ...]:
    """Every entry."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # every command waits for it
    entries: list[dict[str, Any]] = yaml.load(TABLE.read_text(encoding="utf-8"), Loader=loader)["known"]
    lists = ("implementations", "checks", "spoils", "keeps", "others", "nearest")
    return tuple(
        Known(**{**entry, "at_most": str(entry.get("at_most", 0)), **{name: tuple(entry.get(name, ())) for name in lists}})
        for entry in entries
    )


def ending(case: Case, version: str | None = None) -> Known | None:
    """The bug that leaves no run of the case to compare, None if there is none."""
    version = version or version_of("megatron-core")
    if version == ABSENT:
        return None
    return next((entry for entry in table() if entry.instead and entry.applies(case, version)), None)


def refusal(case: Case, version: str | None = None) -> str | None:
    """Why a bug leaves no run of the case to compare, and what works; None if there is no such bug."""
    bug = ending(case, version)
    if bug is None:
        return None
    said = f"{case.arrangement}: known upstream bug: {bug.what} ({bug.link}); {bug.instead}"
    nearer = _with(case, nearest(case, version))
    return f"{said}; the nearest that can be compared is {nearer.arrangement}" if nearer != case else said


def nearest(case: Case, version: str | None = None) -> Mapping[str, Value]:
    """The settings that a bug leaves a run with, where it leaves none of the case itself; nothing if there are none."""
    bug = ending(case, version)
    found = bug.nearest if bug else ()
    return next((given for given in found if ending(_with(case, given), version) is None), {})


def _with(case: Case, given: Mapping[str, Value]) -> Case:
    return replace(case, training=case.training.with_settings(given))


def known_bugs(case: Case, version: str | None = None) -> tuple[Known, ...]:
    """The entries that apply to a case with a version of megatron-core, by default the one that ranks run."""
    return _known_bugs(case, version or version_of("megatron-core"))


@functools.cache
def _known_bugs(case: Case, version: str) -> tuple[Known, ...]:
    if version == ABSENT:  # where checks are listed and not run
        return ()
    return tuple(
        entry for entry in table() if not entry.instead and entry.applies(case, version) and entry.id not in case.mended
    )


def mended(case: Case) -> Case:
    """The case without the known bugs that apply to it: they are taken out of its ranks (validation.candidate.mends).

    A check that a bug excuses is judged there. Without such a bug it is the case itself.
    """
    return replace(case, mended=(*case.mended, *(bug.id for bug in known_bugs(case) if not bug.given)))

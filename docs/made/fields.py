"""The table of fields: how many are of each kind in each release, and every field with what it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from docs.made.releases import recorded
from docs.made.tables import code, table
from validation.case.annotation import Value
from validation.case.declared import SECTIONS
from validation.case.fields import KINDS, NEEDS, Entry, counts, entries
from validation.case.settings import written
from validation.recipe import tries
from validation.scorecard.tried import is_tried


def kinds() -> str:
    """What each kind says, and how many fields of each release are of it."""
    found = {release: counts(names) for release, names in recorded().items()}
    rows = [(code(kind), meaning, *(str(of[kind]) for of in found.values())) for kind, meaning in KINDS.items()]
    rows.append(("all", "", *(str(sum(of.values())) for of in found.values())))
    return table(("kind", "meaning", *found), rows)


def needs() -> str:
    """What a field may need."""
    return table(("word", "meaning"), ((code(word), meaning) for word, meaning in NEEDS.items()))


def everything() -> str:
    """A table for each section, in the order of the file."""
    record = recorded()
    having = {name: _releases(name, record) for name in entries()}
    return "\n".join(_section(section, title, having) for section, (_, title) in SECTIONS.items())


def _section(section: str, title: str, having: dict[str, str]) -> str:
    of = [one for one in entries().values() if one.section == section]
    rows = (
        (code(one.name.partition(".")[2]), one.kind, having[one.name], _why(one), _conditions(one), _tried(one)) for one in of
    )
    head = ("field", "kind", "releases", "what it does", "conditions", "on a GPU")
    return f"### {section}\n\n`{section}.NAME` is a field of `{title}`.\n\n{table(head, rows)}"


def _tried(one: Entry) -> str:
    """What came of each value of a field, with the releases: `equal: 0.16.1, 0.19.2`; `fused` equal: 0.16.1."""
    found: dict[tuple[str, str], list[str]] = {}
    for release, value, said in tries.of_field(one.name):
        found.setdefault(("" if value in ("true", "false") else value, said["verdict"]), []).append(release)
    return "; ".join(
        f"{f'{code(value)} ' if value else ''}{verdict}: {', '.join(releases)}" for (value, verdict), releases in found.items()
    )


def verdicts() -> str:
    """What each verdict of a switch that was tried says."""
    return table(("verdict", "meaning"), tries.VERDICTS.items())


def machines() -> str:
    """On what switches were tried, and how many came to each verdict."""
    rows = []
    for release, tried in tries.record().items():
        for machine in dict.fromkeys(said["on"] for said in tried.values()):
            verdicts = [said["verdict"] for said in tried.values() if said["on"] == machine]
            rows.append((code(release), machine, *(str(verdicts.count(verdict)) for verdict in tries.VERDICTS)))
    return table(("megatron-core", "machine", *tries.VERDICTS), rows)


def unequal() -> str:
    """Every switch whose run did not end with all checks passing, and why."""
    rows = [
        (code(setting), code(release), code(said["layout"]), said["verdict"], said["why"])
        for release, tried in tries.record().items()
        for setting, said in tried.items()
        if said["verdict"] not in (tries.EQUAL, tries.NO_EFFECT)
    ]
    return table(("setting", "megatron-core", "layout", "verdict", "why"), sorted(rows))


def untried() -> str:
    """Of each release with a record, the switches that are not in it."""
    rows = []
    for release, tried in tries.record().items():
        kept = {setting.partition("=")[0] for setting in tried}
        left = [name for name in recorded()[release] if is_tried(entries()[name]) and name not in kept]
        rows.append((code(release), ", ".join(map(code, left))))
    return table(("megatron-core", "not tried"), rows)


def _why(one: Entry) -> str:
    """The reason as Markdown, with names of fields as code."""
    return re.sub(r"[\w.]*\w_\w+", lambda name: code(name[0]), one.why)


def _conditions(one: Entry) -> str:
    """What the reference computes, what the field needs and goes with, where it shows, and how Plumbline says the same."""
    said = []
    if one.formula:
        said.append(f"reference: {code(one.formula)}" + (f", for {_values(one.only)}" if one.only else ""))
    elif one.only:
        said.append(f"{_values(one.only)} in every model" if one.kind == "shape" else f"reference: {_values(one.only)} alone")
    elif one.kind == "meaning":
        said.append("no formula")
    if one.needs:
        said.append(f"needs {code(one.needs)}")
    said += [f"{_values([value])} needs {code(need)}" for value, need in one.needs_of]
    if one.with_field:
        said.append(f"read with {code(_near(one))}")
    if one.unread_by:
        said.append(f"not read by {code(one.unread_by)}")
    if one.lane:
        said.append(f"shows in {code(one.lane)}")
    if one.option:
        said.append(f"said by {code(one.option)}")
    return "; ".join(said)


def _near(one: Entry) -> str:
    """The field without which nothing reads this one; its section, too, if it is another one's."""
    section, _, name = one.with_field.partition(".")
    return name if section == one.section else one.with_field


def _values(values: Sequence[Value]) -> str:
    """Values as YAML writes them."""
    return ", ".join(code(written(value)) for value in values)


def _releases(name: str, record: Mapping[str, Sequence[str]]) -> str:
    """`all`, `from 0.16`, `until 0.13`, or the names of those that have the field."""
    short = {release: ".".join(release.split(".")[:2]) for release in record}
    having = [short[release] for release, names in record.items() if name in names]
    everywhere = list(short.values())
    first, last = everywhere.index(having[0]), everywhere.index(having[-1])
    if having != everywhere[first : last + 1] or len(having) == 1:
        return ", ".join(having)
    if len(having) == len(everywhere):
        return "all"
    return f"until {having[-1]}" if first == 0 else f"from {having[0]}" if having[-1] == everywhere[-1] else ", ".join(having)

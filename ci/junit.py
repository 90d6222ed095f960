"""JUnit in and out: one testsuite per case, one testcase per check, every number where some viewer shows it.

Viewers of JUnit on GitHub ignore properties, so the same numbers stand in the failure's message and in system-out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

LARGEST_FILE = 32 << 20
"""Bytes; a file of a thousand checks is a hundredth of it."""

# XML 1.0 has no way to write these, escaped or not: control characters, surrogates, non-characters.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ANSI = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
_STATUSES = ("pass", "fail", "known", "error")


class UnreadableResults(Exception):
    """A results file that is no JUnit file of ours, with the reason."""


@dataclass(frozen=True)
class Check:
    """One testcase. `name` holds no number that changes from run to run, or comparisons over time break."""

    classname: str
    name: str
    status: str
    seconds: float = 0.0
    message: str = ""
    details: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """One case's checks. `timestamp` is ISO 8601 without a zone, as JUnit has it."""

    name: str
    checks: tuple[Check, ...]
    properties: Mapping[str, str]
    seconds: float = 0.0
    timestamp: str = ""


def write(path: Path, suite: Suite) -> None:
    """Write the file in one step: a reader sees the old one or the new one, never a part."""
    xml = JUnitXml()
    xml.add_testsuite(_suite(suite))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    xml.write(str(unfinished), pretty=True)
    os.replace(unfinished, path)


def write_unfinished(path: Path, name: str, properties: Mapping[str, str]) -> None:
    """The file that stands until the run has ended, and for good if it is killed."""
    check = Check("validation", "run", "error", message="did not finish")
    write(path, Suite(name, (check,), properties))


def _suite(suite: Suite) -> TestSuite:
    made = TestSuite(_text(suite.name))
    for name, value in suite.properties.items():
        made.add_property(_text(name), _text(value))
    for check in suite.checks:
        made.add_testcase(_case(check))
    made.time, made.timestamp = suite.seconds, suite.timestamp or None
    return made


def _case(check: Check) -> TestCase:
    if check.status not in _STATUSES:
        raise ValueError(f"{check.name}: status {check.status!r} is none of {', '.join(_STATUSES)}")
    made = TestCase(_text(check.name), classname=_text(check.classname), time=round(check.seconds, 6))
    # junitparser keeps properties of a testcase only as a child of its own making.
    numbers = "\n".join(f"{name}: {value}" for name, value in check.properties.items())
    made.system_out = _text("\n".join(part for part in (check.details, numbers) if part))
    outcome = {"fail": Failure, "error": Error, "known": Skipped}.get(check.status)
    if outcome is not None:
        made.result = [outcome(_text(check.message), check.status)]
    _add_properties(made, check.properties)
    return made


def _add_properties(case: TestCase, properties: Mapping[str, str]) -> None:
    if not properties:
        return
    from junitparser import Properties, Property

    block = Properties()
    for name, value in properties.items():
        block.add_property(Property(_text(name), _text(value)))
    case.append(block)


def _text(text: object) -> str:
    return _UNWRITABLE.sub("\ufffd", _ANSI.sub("", str(text)))


def read(path: Path) -> Suite:
    """The suite of a file that `write` wrote. Raises UnreadableResults; the file may come from anyone."""
    data = _safe_bytes(path)
    try:
        xml = JUnitXml.fromstring(data)
    except Exception as error:  # lxml's or the standard parser's, whichever junitparser found
        raise UnreadableResults(f"{path.name}: not JUnit XML ({error})") from error
    suites = list(xml) if isinstance(xml, JUnitXml) else [xml]
    if len(suites) != 1:
        raise UnreadableResults(f"{path.name}: {len(suites)} testsuites; one was expected")
    found = suites[0]
    return Suite(
        name=str(found.name),
        checks=tuple(_check(case) for case in found),
        properties={str(item.name): str(item.value) for item in found.properties()},
        seconds=float(found.time or 0.0),
        timestamp=str(found.timestamp or ""),
    )


def _safe_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not 0 < size <= LARGEST_FILE:
            raise UnreadableResults(f"{path.name}: {size} bytes; between 1 and {LARGEST_FILE} are read")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableResults(f"{path.name}: {error.strerror}") from error
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\x00" in data:
        raise UnreadableResults(f"{path.name}: declares entities or is not UTF-8, which no file of ours does")
    return data


def _check(case: TestCase) -> Check:
    result = case.result[0] if case.result else None
    kinds = {Failure: "fail", Error: "error", Skipped: "known"}
    return Check(
        classname=str(case.classname),
        name=str(case.name),
        status=kinds.get(type(result), "pass") if result is not None else "pass",
        seconds=float(case.time or 0.0),
        message=str(result.message or "") if result is not None else "",
        details=str(case.system_out or ""),
        properties={str(item.get("name")): str(item.get("value")) for item in case._elem.iterfind("properties/property")},
    )

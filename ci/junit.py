"""JUnit in and out: one testsuite per case, one testcase per check, every number where some viewer shows it.

Most viewers ignore properties, and many ignore system-out: the body of a failure has the whole text. What each shows is in
docs/viewers.md. A file names a check by a class name that has its case (ci/names.py); here it has its component alone.
"""

from __future__ import annotations

import math
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from junitparser.junitparser import etree  # lxml, or the standard library's where there is none

from ci import names
from ci.structure import Structure
from validation.case import writing
from validation.case.failures import KINDS, UNFINISHED
from validation.case.plural import many

LARGEST_FILE = 32 << 20
"""Bytes; a file of a thousand checks is a hundredth of it."""

_OTHER_ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*encoding\s*=\s*["'](?!utf-8["'])""", re.IGNORECASE)
# XML 1.0 has no way to write these, escaped or not: control characters, surrogates, non-characters.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ANSI = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
RUN = "run"
"""The property of a testsuite that all testsuites of one run share."""
UNEVALUATED = "unevaluated"
"""The status of a check that could not be evaluated because something else failed. It is neither a pass nor a failure."""
STATUSES = ("pass", "fail", "known", "error", UNEVALUATED)
_NOT_EVALUATED = "not evaluated"
_NO_KIND = "other"
_WORDS = {"PASS": "pass", "FAIL": "fail", "KNOWN": "known"}
"""With what the text of a check begins -> its status."""
_SKIPS = {"known": "known", _NOT_EVALUATED: UNEVALUATED}
"""Type of a <skipped> -> status."""


class UnreadableResults(Exception):
    """A results file that is no JUnit file of ours, with the reason."""


@dataclass(frozen=True)
class Check:
    """One testcase. `name` holds no number that changes from run to run, or comparisons over time break.

    `component` is the module of checks, `mla`, or the dotted path of a user's module outside of ours. `failure` is the kind of
    a failure or an error (validation/case/failures.py), empty if none is known.
    """

    component: str
    name: str
    status: str
    seconds: float = 0.0
    message: str = ""
    details: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Suite:
    """One case's checks. `timestamp` is ISO 8601 without a zone, as JUnit has it."""

    name: str
    checks: tuple[Check, ...]
    properties: Mapping[str, str]
    seconds: float = 0.0
    timestamp: str = ""

    @property
    def run(self) -> str:
        """The run that wrote it (ci/run.py); empty if it does not say."""
        return self.properties.get(RUN, "")


def write(path: Path, suite: Suite) -> None:
    """Write the file in one step: a reader sees the old one or the new one, never a part. Raises OSError."""
    xml = JUnitXml()
    xml.add_testsuite(_suite(suite))
    # junitparser's own pretty printing loses the line ends of messages before Python 3.13, and its writing goes through
    # an encoder for each of ten thousand attributes.
    etree.indent(xml._elem)
    text = etree.tostring(xml._elem, encoding="unicode")
    writing.write(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}')


def write_unfinished(path: Path, name: str, properties: Mapping[str, str]) -> None:
    """The file that stands until the run has ended, and for good if it is killed."""
    check = Check("run", "run", "error", message="did not finish", failure=UNFINISHED)
    write(path, Suite(name, (check,), properties))


def _suite(suite: Suite) -> TestSuite:
    made = TestSuite(_text(suite.name))
    for name, value in suite.properties.items():
        made.add_property(_text(name), _text(value))
    # One at a time they would be counted again with each: 4 s for four cases.
    name, session = _text(suite.name), _text(suite.properties.get(names.SESSION, ""))
    named = [(check, names.classname(name, session, _text(check.component))) for check in suite.checks]
    made.add_testcases([_case(check, classname) for check, classname in named])
    made._elem.set("time", _decimal(suite.seconds))
    made.timestamp = suite.timestamp or None
    return made


def _case(check: Check, classname: str) -> TestCase:
    if check.status not in STATUSES:
        raise ValueError(f"{check.name}: status {check.status!r} is none of {', '.join(STATUSES)}")
    if check.failure and (check.failure not in KINDS or check.status not in ("fail", "error")):
        raise ValueError(
            f"{check.name}: failure {check.failure!r} with status {check.status!r} is none of validation.case.failures"
        )
    made = TestCase(_text(check.name), classname=classname)
    made._elem.set("time", _decimal(check.seconds))
    text = _text("\n".join(part for part in (check.details, _numbers(check.properties)) if part))
    made.system_out = text
    if check.status != "pass":
        made.result = [_outcome(check, text)]
    _add_properties(made, check.properties)
    return made


def _decimal(seconds: float) -> str:
    """Seconds as every viewer reads them: Jenkins' xUnit plugin knows no exponents."""
    return f"{seconds:.6f}"


def _outcome(check: Check, text: str) -> Failure | Error | Skipped:
    """The element that says what came of it, with all that is known of it in its body."""
    kind = {"known": "known", UNEVALUATED: _NOT_EVALUATED}.get(check.status, check.failure or _NO_KIND)
    made: Failure | Error | Skipped = {"fail": Failure, "error": Error}.get(check.status, Skipped)(_text(check.message), kind)
    made.text = text or _text(check.message)
    return made


def _numbers(properties: Mapping[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in properties.items())


def _add_properties(case: TestCase, properties: Mapping[str, str]) -> None:
    if not properties:
        return
    # junitparser has no properties of a testcase, and its own for a testsuite take a tenth of a run's time for ten thousand.
    block = etree.SubElement(case._elem, "properties")
    for name, value in properties.items():
        etree.SubElement(block, "property", name=_text(name), value=_text(value))


def _text(text: object) -> str:
    """The text as XML can hold it and gives it back: no control characters, and one kind of line end."""
    lines = str(text)
    if lines.isascii() and lines.isprintable():
        return lines
    lines = lines.replace("\r\n", "\n").replace("\r", "\n")
    return _UNWRITABLE.sub("\ufffd", _ANSI.sub("", lines))


def read(path: Path) -> Suite:
    """The suite of a file that `write` wrote. Raises UnreadableResults; the file may come from anyone."""
    data = _safe_bytes(path)
    try:
        structure = Structure(data)
        xml = JUnitXml.fromstring(data)
    except Exception as error:  # lxml's or the standard parser's, whichever junitparser found
        raise UnreadableResults(f"{path.name}: not JUnit XML ({error})") from error
    suites = list(xml) if isinstance(xml, JUnitXml) else [xml]
    if len(suites) != 1:
        raise UnreadableResults(f"{path.name}: {many(len(suites), 'testsuite')}; one was expected")
    try:
        suite = _read_suite(suites[0])
    except ValueError as error:
        raise UnreadableResults(f"{path.name}: {error}") from error
    if wrong := structure.wrong_counts():
        raise UnreadableResults(f"{path.name}: wrong counts: {wrong}")
    return suite


def _read_suite(found: TestSuite) -> Suite:
    name, properties = str(found.name), _each_once((str(item.name), str(item.value)) for item in found.properties())
    session = properties.get(names.SESSION)
    return Suite(
        name=name,
        checks=tuple(_check(case, names.component(name, session, case.classname or "")) for case in found),
        properties=properties,
        seconds=_seconds(found),
        timestamp=str(found.timestamp or ""),
    )


def _each_once(properties: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of two values of one property every reader takes the one it likes."""
    found: dict[str, str] = {}
    for name, value in properties:
        if name in found:
            raise ValueError(f"property {name[:100]} is there twice")
        found[sys.intern(name)] = value  # a million checks have the same ten names
    return found


def _safe_bytes(path: Path) -> bytes:
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableResults(f"{path.name}: no regular file (a link, a folder or a device), which no run of ours leaves")
        if not about.st_size:
            raise UnreadableResults(f"{path.name}: is empty (0 bytes): whatever wrote it was cut off")
        if about.st_size > LARGEST_FILE:
            raise UnreadableResults(f"{path.name}: {many(about.st_size, 'byte')}, and no more than {LARGEST_FILE} are read")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableResults(f"{path.name}: {error.strerror}") from error
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\x00" in data or _OTHER_ENCODING.match(data):
        raise UnreadableResults(f"{path.name}: declares entities or is not UTF-8, which no file of ours does")
    return data


def _seconds(element: TestSuite | TestCase) -> float:
    seconds = float(element.time or 0.0)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a time of {seconds} seconds")
    return seconds


def _check(case: TestCase, component: str) -> Check:
    if not (case.name and component):
        raise ValueError("a testcase without name or classname")
    results = list(case.result)
    status = _status(case.name, results)
    properties = _each_once(
        (str(item.get("name")), str(item.get("value"))) for item in case._elem.iterfind("properties/property")
    )
    if wrong := _contradiction(case.system_out, status, properties):
        raise ValueError(f"{case.name}: {wrong}")
    return Check(
        component=component,
        name=case.name,
        status=status,
        seconds=_seconds(case),
        message=str(results[0].message or "") if results else "",
        details=(case.system_out or "").removesuffix(_numbers(properties)).removesuffix("\n" if properties else ""),
        properties=properties,
        failure=_failure(results),
    )


def _contradiction(text: str | None, status: str, properties: Mapping[str, str]) -> str:
    """Where the text of a check says something else than what the gate goes by; empty if nowhere.

    Most viewers show the text. One who changes one of both would show a reviewer what was not judged.
    """
    if text is None:
        return ""
    word = text.partition(":")[0]
    if word in _WORDS and _WORDS[word] != status:
        return f"its text says {word}, and its verdict is {status}"
    if not text.endswith(_numbers(properties)):
        return "its text and its properties have other numbers"
    return ""


def _status(name: str, results: list[Error | Failure | Skipped]) -> str:
    """What the element says; a skip that is no known bug was never compared, and must not read as one."""
    if not results:
        return "pass"
    (*others, result) = results
    status = {Failure: "fail", Error: "error"}.get(type(result)) or _SKIPS.get(str(result.type))
    if others or status is None:
        raise ValueError(f"{name}: not one verdict of {', '.join(STATUSES)}")
    return status


def _failure(results: list[Error | Failure | Skipped]) -> str:
    """The kind of failure that the element says; empty for one that is in no list, as in files of before."""
    return next((str(result.type) for result in results if result.type in KINDS), "")

"""Real readers of JUnit files on a red run of four layouts: each shows every failure, and the culprit before the others.

Readers that keep the order of a file show the culprit as the first failure. Those that sort or group checks show it above
them, as a property of the testsuite. docs/viewers.md says what each viewer does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import xunitparser
from junitparser import Error, Failure, JUnitXml

from ci import junit
from ci.junit import Suite
from tests.viewers.red import BROKEN, CULPRIT, SENTENCE, failing, suites, write
from validation.case.failures import KINDS

HERE = Path(__file__).parent
RED = [suite for suite in suites() if failing(suite)]
MOST = 300
"""Seconds that a viewer may take on a busy machine."""


@dataclass(frozen=True)
class Shown:
    """A failure as a viewer shows it."""

    name: str
    message: str
    text: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write(tmp_path_factory.mktemp("red"))


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if found is None or not (HERE / "node_modules").is_dir():
        pytest.skip("Node.js 20 and the viewers are needed: npm ci --prefix tests/viewers --ignore-scripts")
    return found


def run(*command: str | Path) -> str:
    """What a viewer prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=MOST, check=True)
    return done.stdout


def assert_in_the_flow(suite: Suite, shown: list[Shown]) -> None:
    """Every failure once, in the flow of data, each with its line and with its whole text."""
    assert [one.name for one in shown] == failing(suite)
    said = {check.name: check for check in suite.checks}
    for one in shown:
        assert one.message == said[one.name].message
        for line in said[one.name].details.splitlines():
            assert line in one.text
    assert shown[0].name in (CULPRIT, BROKEN)


def test_the_run_is_red_in_many_checks_and_its_culprit_is_known() -> None:
    assert [suite.properties["arrangement"] for suite in RED] == ["tp2", "pp2", "tp2ep2"]
    assert [failing(suite)[0] for suite in RED] == [CULPRIT, BROKEN, CULPRIT]
    assert min(len(failing(RED[0])), len(failing(RED[2]))) > 300


def test_junitparser(files: list[Path]) -> None:
    for suite, path in zip(suites(), files, strict=True):
        (found,) = JUnitXml.fromfile(str(path))
        shown = [
            Shown(case.name, result.message, result.text)
            for case in found
            for result in case.result
            if isinstance(result, (Failure, Error))
        ]
        assert_in_the_flow(suite, shown) if failing(suite) else shown == []


def test_xunitparser(files: list[Path]) -> None:
    for suite, path in zip(suites(), files, strict=True):
        with path.open(encoding="utf-8") as file:
            cases, _ = xunitparser.parse(file)
        shown = [Shown(case.methodname, case.message, case.trace) for case in cases if case.result in ("failure", "error")]
        assert_in_the_flow(suite, shown) if failing(suite) else shown == []


def test_test_results_parser(node: str, files: list[Path]) -> None:
    found = json.loads(run(node, HERE / "read.mjs", *files))
    assert sorted(found) == sorted(suite.name for suite in suites())
    for suite in suites():
        shown = [Shown(**one) for one in found[suite.name]]
        assert_in_the_flow(suite, shown) if failing(suite) else shown == []


def test_xunit_viewer(node: str, files: list[Path]) -> None:
    """It sorts checks by name, so the testsuite's first property has the culprit."""
    viewer = HERE / "node_modules" / "xunit-viewer" / "bin" / "xunit-viewer.js"
    printed = run(node, viewer, "-r", files[0].parent, "-c", "-n", "-o", "false", "--clear", "false")
    parts = dict(
        zip(*(iter(re.split(rf"^ ({'|'.join(path.stem for path in files)})$", printed, flags=re.M)[1:]),) * 2, strict=True)
    )
    for suite in suites():
        lines = parts[suite.name].splitlines()
        names = [found[1] for line in lines if (found := re.match(r"     [✗!] (.*?)(?: time=\S+)?$", line))]
        assert sorted(names) == sorted(failing(suite))
        if names:
            assert [line for line in lines if "first_failure=" in line] == [f"     first_failure={first_message(suite)}"]
            assert parts[suite.name].index("first_failure=") < parts[suite.name].index(names[0])
            assert parts[suite.name].count("python -m validation run --layouts") >= len(names) - (names == [BROKEN])


def first_message(suite: Suite) -> str:
    return next(check.message for check in suite.checks if check.status in ("fail", "error"))


class _Text(HTMLParser):
    """The text of a page, and the names of failed checks in its order."""

    def __init__(self) -> None:
        super().__init__()
        self._parts, self.failed = list[str](), list[str]()
        self._failed = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "li":
            self._failed = "outcome-failed" in (dict(attrs).get("class") or "")

    def handle_data(self, data: str) -> None:
        self._parts.append(data)
        if self._failed and data.strip():
            self.failed.append(data.strip())

    @property
    def text(self) -> str:
        return "".join(self._parts)


def test_junit2html(files: list[Path], tmp_path: Path) -> None:
    """It groups checks by class, in the order in which the classes appear."""
    for suite, path in zip(suites(), files, strict=True):
        run(sys.executable, "-m", "junit2htmlreport", path, tmp_path / "page.html")
        page = _Text()
        page.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert sorted(page.failed) == sorted(failing(suite))
        lines = {line.strip() for line in page.text.splitlines()}
        for check in suite.checks:
            if check.status in ("fail", "error"):
                assert {line.strip() for line in check.details.splitlines()} <= lines
        if failing(suite):
            assert page.failed[0] == failing(suite)[0]
            assert page.text.index("first_failure") < page.text.index(first_message(suite))


def cases_of(files: list[Path]) -> Iterator[ElementTree.Element]:
    for path in files:
        yield from ElementTree.parse(path).iter("testcase")


def test_a_reader_that_keeps_the_first_of_equal_names(files: list[Path]) -> None:
    """As GitLab documents of all files of a job. It shows the text of the element."""
    kept: dict[tuple[str, str], ElementTree.Element] = {}
    for case in cases_of(files):
        kept.setdefault((case.get("classname", ""), case.get("name", "")), case)
    results = [found for case in kept.values() for tag in ("failure", "error") if (found := case.find(tag)) is not None]
    assert len(results) == sum(len(failing(suite)) for suite in suites())
    assert all("python -m validation run" in (one.text or "") or SENTENCE in (one.text or "") for one in results)
    for suite in RED:
        of_suite = [case for (classname, _), case in kept.items() if f".{suite.name}." in classname]
        red = [case.get("name") for case in of_suite if case.find("failure") is not None or case.find("error") is not None]
        assert red == failing(suite)


def test_a_reader_that_groups_by_class_and_shows_ten(files: list[Path]) -> None:
    """As dorny/test-reporter, which shows the first line of the element's text, and takes two failures of one text for one."""
    for suite, path in zip(suites(), files, strict=True):
        groups: dict[str, list[str]] = {}
        for case in cases_of([path]):
            result = case.find("failure") if case.find("error") is None else case.find("error")
            groups.setdefault(case.get("classname", ""), []).extend([] if result is None else [result.text or ""])
        shown = [text.splitlines()[0] for texts in groups.values() for text in texts]
        assert len(set(shown)) == len(failing(suite))
        assert [line.partition(" - ")[0].partition(": ")[2] for line in shown[:10]][:1] == failing(suite)[:1]


def test_a_reader_that_cuts_class_names_at_dots_groups_by_case_and_component(files: list[Path]) -> None:
    """As Jenkins: what stands before the last dot is the package."""
    packages = {case.get("classname", "").rpartition(".")[0] for case in cases_of(files)}
    assert packages == {f"plumbline.{suite.name}" for suite in suites()}


def test_every_kind_of_failure_is_of_the_list(files: list[Path]) -> None:
    found = {one.get("type") for case in cases_of(files) for tag in ("failure", "error") for one in case.iter(tag)}
    assert found == {"limit", "exception"}
    assert found <= set(KINDS)


TEXT = {"type", "message"}
JUNIT_10: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"testsuite"}, {"name", "time", "tests", "failures", "errors"}, set()),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package"},
        {"name", "tests", "failures", "errors"},
    ),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name", "time", "classname", "group"},
        {"name"},
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, {"name", "value"}),
    "failure": (set(), TEXT, set()),
    "error": (set(), TEXT, set()),
    "skipped": (set(), TEXT, set()),
    "system-out": (set(), set(), set()),
}
"""The rules of Jenkins' xUnit plugin for an element, as far as our files have it: children, attributes, what must be there."""
SUREFIRE_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")


def broken_rules(element: ElementTree.Element) -> Iterator[str]:
    children, attributes, required = JUNIT_10[element.tag]
    yield from (f"<{child.tag}> in <{element.tag}>" for child in element if child.tag not in children)
    yield from (f"{name} of <{element.tag}>" for name in set(element.keys()) - attributes)
    yield from (f"no {name} of <{element.tag}>" for name in required - set(element.keys()))
    if element.tag in ("testsuite", "testsuites") and not SUREFIRE_TIME.fullmatch(element.get("time", "")):
        yield f"a time of {element.get('time')}"
    for child in element:
        yield from broken_rules(child)


def test_jenkins_junit_10_rules_hold_but_for_the_numbers_of_a_check(files: list[Path]) -> None:
    """Its xUnit plugin refuses properties of a testcase, which pytest's files have as well; its JUnit plugin does not."""
    for path in files:
        assert set(broken_rules(ElementTree.parse(path).getroot())) <= {"<properties> in <testcase>"}


def test_a_time_that_is_nearly_nothing_is_written_as_jenkins_reads_it(tmp_path: Path) -> None:
    junit.write(tmp_path / "a.xml", replace(RED[1], seconds=1e-5))
    assert "a time of" not in " ".join(broken_rules(ElementTree.parse(tmp_path / "a.xml").getroot()))
    assert junit.read(tmp_path / "a.xml").seconds == pytest.approx(1e-5)


def test_the_lock_file_of_the_viewers_names_no_registry() -> None:
    """Where packages come from is npm's own configuration."""
    packages = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in packages.items() if name)


def test_the_page_about_viewers_has_every_kind_of_failure() -> None:
    page = (HERE.parents[1] / "docs" / "viewers.md").read_text(encoding="utf-8")
    table = page.partition("| type | meaning |")[2].partition("\n\n")[0]
    assert dict(re.findall(r"^\| `(.*)` \| (.*) \|$", table, re.M)) == dict(KINDS)

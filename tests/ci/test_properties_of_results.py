"""Whatever stands in results, manifest and contexts: gate and page end in a verdict, never in a traceback."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ci import junit, needs
from ci.expected import UnreadableManifest, load, save
from ci.folder import Results
from ci.gate import judged
from ci.junit import Check, Suite, UnreadableResults
from ci.page.document import document
from ci.page.run import by_manifest
from ci.page.run import judged as without_manifest
from tests.ci.green import FILE, MANIFEST, ORIGIN, SUITE
from tests.properties import anything, changed_bytes, changed_json, in_a_process, quick
from validation.case.failures import KINDS


def right(folder: Path) -> bytes:
    """A results file as a run writes it."""
    junit.write(folder / "right.xml", SUITE)
    return (folder / "right.xml").read_bytes()


def shows(folder: Path) -> None:
    """All that reads results says something of the folder's."""
    found = judged(MANIFEST, Results(folder), ORIGIN)
    assert found.green or found.reasons
    document(by_manifest(MANIFEST, found), "Plumbline")


@quick
@given(data=st.data())
def test_results_of_other_bytes(data: st.DataObject, tmp_path: Path) -> None:
    """Spoiled in one place; what can be read is shown."""
    (tmp_path / FILE).write_bytes(data.draw(changed_bytes(right(tmp_path))))
    (tmp_path / "right.xml").unlink(missing_ok=True)
    shows(tmp_path)
    with contextlib.suppress(UnreadableResults):
        document(without_manifest([junit.read(tmp_path / FILE)]), "Plumbline")


words = st.text(max_size=12) | st.sampled_from(
    ["nan", "inf", "-1", "1e999", "9" * 5000, "0x1", "1_0", "²", "Layer 0 Query", "MTP 0 Loss"]
)
names = words.filter(bool) | st.sampled_from(["a.b", "plumbline", "a:b", "validation.checks.test_mla", "a..b.", "."])
numbers = st.dictionaries(
    st.sampled_from(["rel_error", "tolerance", "floor", "ranks", "max_diff", "worst_index", "x"]), words, max_size=5
)
checks = st.builds(
    Check,
    component=st.sampled_from(["mla", "gradients"]) | names,
    name=words.filter(bool),
    status=st.sampled_from(["pass", "fail", "known", "error", "unevaluated"]),
    seconds=st.floats(0, 1e6),
    message=words,
    details=words,
    properties=numbers,
)


@quick
@given(
    found=st.lists(checks, max_size=4),
    properties=st.dictionaries(st.sampled_from([*SUITE.properties, "attempts", "broken"]), words),
)
def test_results_of_other_texts(found: list[Check], properties: dict[str, str], tmp_path: Path) -> None:
    """A file of ours as far as its structure goes, whose texts are anybody's. What was written is read."""
    suite = Suite(SUITE.name, tuple(found), {**SUITE.properties, **properties})
    junit.write(tmp_path / FILE, suite)
    shows(tmp_path)
    with contextlib.suppress(UnreadableResults):
        assert len(junit.read(tmp_path / FILE).checks) == len(found)


@st.composite
def written(draw: st.DrawFn) -> Check:
    """A check as ours are, with any texts: only a failure or an error has a kind."""
    check = draw(checks)
    kind = draw(st.sampled_from(["", *KINDS])) if check.status in ("fail", "error") else ""
    message = "" if check.status == "pass" else check.message
    return replace(check, failure=kind, message=message, seconds=draw(st.integers(0, 10**9)) / 1000)


@quick
@given(
    found=st.lists(written(), max_size=4),
    name=names,
    session=st.none() | names,
    seconds=st.integers(0, 10**9),
)
def test_what_is_read_is_what_was_written(
    found: list[Check], name: str, session: str | None, seconds: int, tmp_path: Path
) -> None:
    """Whatever the names are: component, case and session are told apart again."""
    properties = {**SUITE.properties, **({} if session is None else {"session": session})}
    suite = Suite(name, tuple(found), properties, seconds / 1000)
    junit.write(tmp_path / FILE, suite)
    once = junit.read(tmp_path / FILE)
    assert plain(once) == plain(suite)
    junit.write(tmp_path / FILE, once)
    assert junit.read(tmp_path / FILE) == once


def plain(suite: Suite) -> Suite:
    """With what XML cannot hold put as it is written."""
    checks = tuple(
        replace(
            check,
            component=junit._text(check.component),
            name=junit._text(check.name),
            message=junit._text(check.message),
            details=junit._text(check.details),
            properties={junit._text(key): junit._text(value) for key, value in check.properties.items()},
        )
        for check in suite.checks
    )
    properties = {junit._text(key): junit._text(value) for key, value in suite.properties.items()}
    return replace(suite, name=junit._text(suite.name), checks=checks, properties=properties)


@quick
@given(data=st.data())
def test_a_manifest_with_another_value(data: st.DataObject, tmp_path: Path) -> None:
    save(tmp_path / "m.json", MANIFEST)
    said = data.draw(changed_json(json.loads((tmp_path / "m.json").read_text())))
    (tmp_path / "m.json").write_text(json.dumps(said))
    with contextlib.suppress(UnreadableManifest):
        manifest = load(tmp_path / "m.json")
        document(by_manifest(manifest, judged(manifest, Results(tmp_path), ORIGIN)), "Plumbline")


@quick
@given(data=st.data())
def test_a_manifest_of_other_bytes(data: st.DataObject, tmp_path: Path) -> None:
    save(tmp_path / "m.json", MANIFEST)
    (tmp_path / "m.json").write_bytes(data.draw(changed_bytes((tmp_path / "m.json").read_bytes())))
    with contextlib.suppress(UnreadableManifest):
        load(tmp_path / "m.json")


@quick
@given(
    said=anything | changed_json({"plan": {"result": "success", "outputs": {"hosted": "[]"}}, "hosted": {"result": "skipped"}})
)
def test_the_jobs_before(said: object) -> None:
    assert all(isinstance(why, str) for why in needs.reasons(json.dumps(said)))


MOST = 256
"""MiB that reading one results file may take, of any size and nesting."""
READ = """
from pathlib import Path
from ci import junit
junit.read(Path(sys.argv[2]))
HOLD
try:
    junit.read(Path(sys.argv[1]))
except junit.UnreadableResults as error:
    print(str(error)[:200].splitlines()[0])
"""


def test_memory_of_results(tmp_path: Path) -> None:
    """As many testcases as the file may have bytes for."""
    right(tmp_path)
    case = b'<testcase classname="a" name="b"/>'
    (tmp_path / "x.xml").write_bytes(
        b"<testsuites><testsuite>" + case * (junit.LARGEST_FILE // len(case) - 10) + b"</testsuite></testsuites>"
    )
    done = in_a_process(READ, str(tmp_path / "x.xml"), str(tmp_path / "right.xml"), mebibytes=MOST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("x.xml: ")

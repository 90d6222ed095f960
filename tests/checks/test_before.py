"""A look at one check, or at another case of the same name, does not cost the report that was there."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from ci import junit
from ci.folder import BEFORE, Results
from ci.junit import Check, Suite
from tests.checks.conftest import Output, commands_in_turn
from validation.case.errors import UsageError
from validation.checks.before import FOLDER, Aside, Kept, told

SHARED = ("--set", "num_layers=1", "--steps", "0", "--seq-length", "8")
NAME = "tiny-single-fp64-local-gloo"


def report(path: Path, checks: int, **properties: str) -> Path:
    """A report of so many checks."""
    found = [Check("output", f"Check {number}", "pass") for number in range(checks)]
    junit.write(path, Suite(path.stem, tuple(found), properties))
    return path


def kept(folder: Path) -> dict[str, int]:
    """The reports that were moved out of the way, and of how many checks they are."""
    return {path.name: len(junit.read(path).checks) for path in sorted((folder / FOLDER).glob("*"))}


def keep(path: Path, properties: dict[str, str], checks: int) -> Kept | None:
    """What a run of so many checks does with the report at `path` when it starts."""
    aside = Aside()
    aside.take([path])
    return aside.settle(path, properties, checks)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A report of three checks of one case."""
    return report(tmp_path / "tiny.xml", 3, case="0123456789abcdef")


def test_a_run_of_the_same_checks_replaces_the_report(there: Path) -> None:
    assert keep(there, {"case": "0123456789abcdef"}, 3) is None
    assert list(there.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("properties", "checks"),
    [({"case": "0123456789abcdef"}, 1), ({"case": "f"}, 3), ({"case": "0123456789abcdef", "plugin": "p.py"}, 3)],
    ids=["fewer checks", "another case", "a plugin"],
)
def test_a_run_of_something_else_leaves_the_report_beside_its_own(there: Path, properties: dict[str, str], checks: int) -> None:
    found = keep(there, properties, checks)
    assert found is not None
    assert not there.exists()
    assert kept(there.parent) == {"tiny-01234567.xml": 3}
    words = "1 check" if checks == 1 else f"{checks} checks"
    assert told([found], checks) == f"Kept from before this run of {words}: {found.path} (3 checks)"


def test_of_several_selections_the_whole_report_stays(there: Path) -> None:
    """Whoever reproduces a failure twice has the report of one check before the second time."""
    for _ in range(2):
        keep(there, {"case": "0123456789abcdef"}, 1)
        report(there, 2, case="0123456789abcdef")
    assert kept(there.parent) == {"tiny-01234567.xml": 3}


def test_of_two_whole_reports_the_later_one_stays(there: Path) -> None:
    for suite in ("one", "two"):
        report(there, 3, case="0123456789abcdef", commit=suite)
        keep(there, {"case": "0123456789abcdef"}, 1)
    (path,) = (there.parent / FOLDER).iterdir()
    assert junit.read(path).properties["commit"] == "two"


def test_what_did_not_finish_and_what_is_no_report_is_not_kept(tmp_path: Path) -> None:
    junit.write_unfinished(tmp_path / "tiny.xml", "tiny", {"case": "0"})
    (tmp_path / "other.xml").write_text("nothing")
    assert all(keep(tmp_path / name, {"case": "1"}, 0) is None for name in ("tiny.xml", "other.xml", "none.xml"))
    assert not (tmp_path / FOLDER).exists()


def test_what_a_run_that_does_not_start_has_moved_is_all_there(there: Path) -> None:
    """However often, and whatever it is: each finds a place of its own, and the last line says where."""
    for number in (3, 1, 3):
        report(there, number, case="0123456789abcdef", commit=str(number))
        aside = Aside()
        aside.take([there, there.with_name("none.xml")])
        assert aside.told().startswith("Kept from before, for this run has not started: ")
        assert not there.exists()
    there.write_text("no report")
    Aside().take([there])
    assert sorted(path.name for path in (there.parent / FOLDER).iterdir()) == [
        "tiny-01234567-2.xml",
        "tiny-01234567-3.xml",
        "tiny-01234567.xml",
        "tiny.xml",
    ]


def test_what_a_run_does_not_replace_after_all_is_put_back(there: Path) -> None:
    aside, before = Aside(), there.read_bytes()
    aside.take([there])
    aside.put_back()
    assert (there.read_bytes(), list(there.parent.iterdir()), aside.told()) == (before, [there], "")


def test_a_new_report_is_not_put_back_over(there: Path) -> None:
    aside = Aside()
    aside.take([there])
    report(there, 5)
    aside.put_back()
    assert len(junit.read(there).checks) == 5


def test_where_no_folder_can_be_made_it_stays_beside_its_place_under_another_name(there: Path) -> None:
    """A full disk, or a file of that name: what is old leaves its place all the same, and no gate reads it."""
    (there.parent / FOLDER).touch()
    for number in (3, 2):
        report(there, number, case="0123456789abcdef")
        Aside().take([there])
    beside = [there.with_name(f"tiny.xml{ending}") for ending in (f"-2.{FOLDER}", f".{FOLDER}")]
    assert sorted(there.parent.iterdir()) == sorted([there.parent / FOLDER, *beside])
    report(there, 1, case="other")
    found = keep(there, {"case": "0123456789abcdef"}, 3)
    assert found is not None
    assert (found.path.parent, found.path.suffix) == (there.parent, f".{FOLDER}")


def test_what_cannot_be_moved_at_all_is_said(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, to: Path) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(UsageError, match=r"cannot be moved to before/ beside it \(Read-only file system\); name another"):
        Aside().take([there])
    assert there.exists()


def test_the_gate_does_not_see_them(there: Path) -> None:
    """They are strangers to no manifest, with a folder for each session or without."""
    keep(there, {"case": "other"}, 3)
    assert list(Results(there.parent).strangers((), {""})) == []
    assert FOLDER == BEFORE
    (there.parent / FOLDER).rename(there.parent / f"results-cpu_tp2-{FOLDER}")
    session = there.parent / "results-cpu_tp2"
    keep(report(session / "tiny.xml", 3, case="0"), {"case": "1"}, 3)
    assert list(Results(there.parent, by_session=True).files({"cpu_tp2"})) == []


def test_a_selection_keeps_the_whole_report_and_says_so(
    cache: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a user types them: all checks, one of them, all until one fails, another length."""
    all_of_it = ["run", "-v", *SHARED, "--results", str(tmp_path)]
    one, until, longer = [*all_of_it, "--", "-k", "test_logits"], [*all_of_it, "--", "-x"], [*all_of_it, "--seq-length", "16"]
    texts = tmp_path_factory.mktemp("texts")
    outputs = [
        Output(code, text, tmp_path)
        for code, text in commands_in_turn([all_of_it, one, all_of_it, until, longer], cache, texts)
    ]
    assert [output.code for output in outputs] == [0, 0, 0, 0, 0]
    said = [[line for line in output.text.splitlines() if line.startswith("Kept")] for output in outputs]
    assert [len(lines) for lines in said] == [0, 1, 0, 1, 1]
    assert said[1][0].startswith(f"Kept from before this run of 1 check: {tmp_path}/{FOLDER}/{NAME}-")
    (before,) = (tmp_path / FOLDER).iterdir()
    last = [output.text.rstrip().splitlines()[-1] for output in outputs]
    assert last[1] == "Left out: 65 of 66 checks; a gate takes no results of such a run"
    assert ", 65 left out, " in outputs[1].text
    assert not any("left out" in output.text.lower() for output in (outputs[0], *outputs[2:]))
    counts = [len(ElementTree.parse(path).findall(".//testcase")) for path in (before, tmp_path / f"{NAME}.xml")]
    assert counts[0] == counts[1] == 66

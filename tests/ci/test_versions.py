"""The page about releases: what the JUnit files say becomes a table, and the page in docs is made from the data beside it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from ci import junit, outcomes, versions
from ci.outcomes import Cell, Column
from ci.releases import GROUPS, LIBRARIES, NEWEST, RELEASES, Group, Release, groups, titles
from validation.case.arrangement import parse, written
from validation.case.training import Training
from validation.run.known import table

CORE, KIND = "mla", {"rel_error": "0.25"}
BUG = outcomes.known_bugs()[0]


def suite(*checks: junit.Check, layout: str = "tp2") -> junit.Suite:
    said = {"arrangement": written(*parse(layout, Training())), "megatron-core": "0.1", "transformers": "5", "torch": "2"}
    return junit.Suite("a case", checks, said)


def check(status: str, message: str = "", **properties: str) -> junit.Check:
    return junit.Check(CORE, f"a {status} of {message}", status, message=message, properties=properties)


def columns(*cells: Cell) -> list[Column]:
    """A column for each cell, which all its rows have."""
    return [
        Column(str(number), f"0.{number}", "5.0", "2.0", dict.fromkeys(titles(), cell)) for number, cell in enumerate(cells)
    ]


RIGHT = Cell("right", 270, 0, 3.2e-15)
WRONG = Cell("wrong", 270, 9, 0.7, known=(BUG["id"],))
REFUSED = Cell("refused", 270, 0, 0.0, says="rank 0 raised NameError('x')")


def test_a_case_whose_checks_all_pass_is_right() -> None:
    found = outcomes.read_cell(suite(check("pass", rel_error="2e-15"), check("pass", rel_error="3e-15"), check("pass")))
    assert found == Cell("right", 3, 0, 3e-15)


def test_a_known_bug_is_wrong_and_named() -> None:
    """To a gate it is a pass; here it is a number that is wrong."""
    line = f"KNOWN: A Gradient - Max diff: 1; known upstream bug: {BUG['what']} ({BUG['link']})"
    found = outcomes.read_cell(suite(check("known", line, **KIND), check("pass")))
    assert found == Cell("wrong", 2, 1, 0.25, known=(BUG["id"],))


def test_a_failure_that_nobody_lists_is_wrong_and_says_so() -> None:
    found = outcomes.read_cell(suite(check("fail", "FAIL: An Output - Max diff: 1\nmore", **KIND)))
    assert found == Cell("wrong", 1, 1, 0.25, says="Max diff: 1")
    page = versions.page(columns(found, found))
    assert "wrong, not listed: 1 of 1" in page
    assert "Wrong and not listed:\n\n" in page
    assert "- tp2 with megatron-core 0.0 and megatron-core 0.1: Max diff: 1\n" in page


def test_a_run_that_broke_is_refused_with_the_sentence_of_its_first_error() -> None:
    line = "ERROR: Every rank finishes - rank 0 raised NameError('x')"
    found = outcomes.read_cell(suite(check("error", line), check("error", "ERROR: B - not decided")))
    assert found == Cell("refused", 2, 0, 0.0, says="rank 0 raised NameError('x')")


@pytest.mark.parametrize("message", ["did not finish", "ERROR: Every rank finishes - rank 1 was killed by SIGKILL in 'model'"])
def test_a_run_that_was_lost_says_nothing_of_a_release(message: str) -> None:
    with pytest.raises(junit.UnreadableResults, match=r"run it again$"):
        outcomes.read_cell(suite(check("error", message)))


def results(folder: Path, *, without: str = "") -> None:
    for release in (*RELEASES, *LIBRARIES):
        for group in groups(release):
            for layout in group.layouts:
                if layout != without:
                    junit.write(folder / release.name / group.name / f"{layout}.xml", suite(check("pass"), layout=layout))


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(outcomes, "DATA", tmp_path / "versions.json")
    outcomes.save([])
    monkeypatch.setattr(versions, "PAGE", tmp_path / "versions.md")
    return tmp_path


def test_results_become_data_and_page(docs: Path) -> None:
    results(docs / "results")
    assert versions.main([str(docs / "results")]) == 0
    assert [column.name for column in outcomes.load()] == [release.name for release in (*RELEASES, *LIBRARIES)]
    page = (docs / "versions.md").read_text(encoding="utf-8")
    first = {title: "refused" if title in RELEASES[0].refused else "right 0e+00" for title in titles()}
    assert all(f"| {title.removesuffix(', local-stock')} | {shown} |" in page for title, shown in first.items())
    assert page.count(f"| 5 | 2 | {len(GROUPS[0].layouts)} right | 0e+00 |\n") == 1 + len(LIBRARIES)


def test_releases_that_were_not_run_stay_as_they_were_measured(docs: Path) -> None:
    """`nox -s versions -- NAME` runs one of them."""
    results(docs / "results")
    versions.main([str(docs / "results")])
    for place in (docs / "results").iterdir():
        if place.name != RELEASES[1].name:
            shutil.rmtree(place)
    for path in (docs / "results").rglob("*.xml"):
        found = junit.read(path)
        junit.write(path, replace(found, properties={**found.properties, "torch": "3"}))
    assert versions.main([str(docs / "results")]) == 0
    assert [column.torch for column in outcomes.load()] == ["2", "3", *["2"] * (len(RELEASES) + len(LIBRARIES) - 2)]


def test_a_release_that_was_never_run_is_named(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(docs / "results")
    shutil.rmtree(docs / "results" / LIBRARIES[0].name)
    assert versions.main([str(docs / "results")]) == 2
    name = LIBRARIES[0].name
    assert capsys.readouterr().err == f"error: {docs / 'results' / name}: no results; run nox -s versions -- {name}\n"


def test_the_page_can_be_made_anew_from_the_data(docs: Path) -> None:
    results(docs / "results")
    versions.main([str(docs / "results")])
    page = (docs / "versions.md").read_text(encoding="utf-8")
    (docs / "versions.md").unlink()
    assert versions.main([]) == 0
    assert (docs / "versions.md").read_text(encoding="utf-8") == page


def test_what_was_not_run_is_no_cell(docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither page nor data is written from a part of the results."""
    results(docs / "results", without="pp2")
    assert versions.main([str(docs / "results")]) == 2
    assert f"no results of pp2; run nox -s versions -- {RELEASES[0].name}" in capsys.readouterr().err
    assert outcomes.load() == []
    assert not (docs / "versions.md").exists()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (WRONG, RIGHT, f"- mends tp2. Before: wrong ({BUG['what']}). Now: right.\n"),
        (RIGHT, WRONG, f"- breaks tp2. Before: right. Now: wrong ({BUG['what']}).\n"),
        (RIGHT, REFUSED, "- breaks tp2. Before: right. Now: refused.\n"),
        (REFUSED, WRONG, f"- changes tp2. Before: refused. Now: wrong ({BUG['what']}).\n"),
    ],
)
def test_a_release_is_told_by_what_is_not_as_before(before: Cell, after: Cell, said: str) -> None:
    page = versions.page(columns(before, after))
    assert "**megatron-core 0.1**, compared with megatron-core 0.0:" in page
    assert said in page


def test_a_release_that_changes_nothing_says_so() -> None:
    """A number of checks or an error that differs is no change of outcome."""
    page = versions.page(columns(RIGHT, Cell("right", 300, 0, 5e-15)))
    assert "No outcome changes.\n" in page


def test_refusals_are_said_once_for_all_releases_that_refuse() -> None:
    page = versions.page(columns(REFUSED, REFUSED, RIGHT))
    assert "- tp2 with megatron-core 0.0 and megatron-core 0.1: rank 0 raised NameError('x')\n" in page


def test_the_page_in_docs_is_what_its_data_makes() -> None:
    """Nobody writes it by hand; `python -m ci.versions` makes it again."""
    assert versions.PAGE.read_text(encoding="utf-8") == versions.page(outcomes.load())


def test_the_data_in_docs_has_every_release_and_every_layout() -> None:
    """What was added to ci/releases.py has been measured, with the versions that it names."""
    measured = {column.name: column for column in outcomes.load()}
    assert list(measured) == [release.name for release in (*RELEASES, *LIBRARIES)]
    for release in (*RELEASES, *LIBRARIES):
        column = measured[release.name]
        assert column.megatron_core == release.megatron_core
        assert release.transformers in ("", column.transformers)
        assert release.torch in ("", column.torch.partition("+")[0])
        assert list(column.cells) == titles(groups(release))


def test_everything_that_was_measured_wrong_is_listed() -> None:
    """With a page in docs/findings that exists; a failure that is none of these is a bug of ours until it is looked at.

    What 0.12 and 0.13 do wrong in layouts that came to the table later is told on the page alone.
    """
    measured = [column for column in outcomes.load() if Version(column.megatron_core) >= Version("0.14")]
    wrong = [cell for column in measured for cell in column.cells.values() if cell.outcome == "wrong"]
    assert wrong
    assert all(cell.known and not cell.says for cell in wrong)
    pages = {bug["id"]: outcomes.ROOT / bug["finding"] for bug in outcomes.known_bugs()}
    assert all(pages[name].is_file() for cell in wrong for name in cell.known)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("FAIL: A - off - by 1\nReproduce: a - b", "off - by 1"),
        ("no line of ours\nmore\nand more", "no line of ours"),
    ],
)
def test_what_a_cell_says_is_the_first_line_behind_the_check_s_name(message: str, says: str) -> None:
    """Whatever dashes and lines follow; without a name it is the whole first line."""
    assert outcomes.read_cell(suite(check("fail", message))).says == says


def test_an_environment_is_called_by_its_versions() -> None:
    """Those that the requirements bring have no name of their own."""
    assert Release("0.1").name == "megatron-core-0.1"
    assert Release("0.1", "5.0").name == "megatron-core-0.1-transformers-5.0"
    assert Release("0.1", torch="2.0").name == "megatron-core-0.1-torch-2.0"


def test_the_command_of_a_group_has_its_layouts_options_and_place(tmp_path: Path) -> None:
    """And the options of the release if they count. Without the self-test, whose cases are none of the table's."""
    group, release = Group("dense", "", ("tp2", "pp2"), ("--set", "a=1")), Release("0.1", options=("--set", "b=2"))
    assert group.arguments(release, tmp_path) == [
        *("run", "--layouts", "tp2,pp2", "--set", "a=1", "--set", "b=2", "--no-self-test", "--results"),
        str(tmp_path / "megatron-core-0.1" / "dense"),
    ]
    assert "b=2" not in replace(group, of_release=False).arguments(release, tmp_path)


def test_a_layout_that_a_release_refuses_before_the_start_is_not_run(docs: Path) -> None:
    """A command with it would end with 2, and none of the others would be compared."""
    assert "pp2" not in Group("dense", "", ("tp2", "pp2")).arguments(Release("0.1", refused={"pp2": "no stages"}), docs)[2]
    (release,) = (release for release in RELEASES if release.name == "megatron-core-0.13.1")
    results(docs / "results", without="cp2pp2+selective")
    cell = outcomes.read_column(release, docs / "results").cells["cp2pp2+selective"]
    assert cell == Cell("refused", 0, 0, 0.0, says="Invalid choices for recompute_modules: {'shared_experts'}")


def test_local_stock_is_run_where_it_exists() -> None:
    """It knows no context parallelism; everything else of parity's layouts is there."""
    local, stock = (set(group.layouts) for group in GROUPS[:2])
    assert stock < local
    assert {parse(name, Training())[0].cp for name in local - stock} == {2}
    assert {parse(name, Training())[0].cp for name in stock} == {1}


def test_data_is_written_as_it_is_in_docs(docs: Path) -> None:
    """Reading and writing it again changes no byte: a diff of the file shows what was measured anew."""
    in_docs = (outcomes.ROOT / "docs" / "versions.json").read_bytes()
    outcomes.DATA.write_bytes(in_docs)
    outcomes.save(outcomes.load())
    assert outcomes.DATA.read_bytes() == in_docs


def test_a_column_has_the_versions_that_its_results_name(tmp_path: Path) -> None:
    """A question mark stands for what they do not name."""
    results(tmp_path)
    found = outcomes.read_column(RELEASES[0], tmp_path)
    assert (found.megatron_core, found.transformers, found.torch) == ("0.1", "5", "2")
    for path in (tmp_path / RELEASES[0].name).rglob("*.xml"):
        arrangement = written(*parse(path.stem, Training()))
        junit.write(path, junit.Suite("a case", (check("pass"),), {"arrangement": arrangement}))
    found = outcomes.read_column(RELEASES[0], tmp_path)
    assert (found.megatron_core, found.transformers, found.torch) == ("?", "?", "?")


def test_missing_results_are_named_with_their_folder(tmp_path: Path) -> None:
    results(tmp_path, without="tp2nosp")
    with pytest.raises(junit.UnreadableResults) as refused:
        outcomes.read_column(RELEASES[0], tmp_path)
    name = RELEASES[0].name
    assert str(refused.value) == f"{tmp_path / name / 'dense'}: no results of tp2nosp; run nox -s versions -- {name}"


def test_a_known_bug_and_a_failure_count_as_wrong_and_the_failure_is_said() -> None:
    """The largest error is that of all checks."""
    line = f"KNOWN: A - Max diff: 1; known upstream bug: {BUG['what']} ({BUG['link']})"
    checks = (
        check("known", line, **KIND),
        check("fail", "FAIL: B - off\nmore", rel_error="0.5"),
        check("pass", rel_error="0.75"),
    )
    assert outcomes.read_cell(suite(*checks)) == Cell("wrong", 3, 2, 0.75, known=(BUG["id"],), says="off")


def test_a_lost_run_is_named_with_what_it_says() -> None:
    with pytest.raises(junit.UnreadableResults) as refused:
        outcomes.read_cell(suite(check("error", "did not finish"), check("fail", "FAIL: B - off")))
    assert str(refused.value) == "a case: did not finish; run it again"


def test_releases_that_refuse_are_named_once_each() -> None:
    """Three are a list."""
    cells = dict.fromkeys(titles(), REFUSED)
    page = versions.page([Column(name, name, "5.0", "2.0", cells) for name in ("0.1", "0.2", "0.3")])
    assert "- tp2 with megatron-core 0.1, megatron-core 0.2 and megatron-core 0.3: rank 0 raised NameError('x')\n" in page
    page = versions.page([Column("0.2", "0.2", "5.0", "2.0", cells)])
    assert "- tp2 with megatron-core 0.2: rank 0 raised" in page


def test_a_release_of_a_library_is_one_row() -> None:
    """With how many of parity's layouts came out how, and their largest error, below what a fresh environment had."""
    cells = {"tp2": RIGHT, "pp2": WRONG, "ep2": RIGHT}
    newest = Column(NEWEST.name, "0.1", "5.5", "2.5", dict.fromkeys(titles(), RIGHT) | {"tp2etp1": WRONG})
    page = versions.page([newest, Column(LIBRARIES[0].name, "0.1", "5.0", "2.0", cells)])
    fresh = f"| 5.5 | 2.5 | {len(GROUPS[0].layouts)} right | 3e-15 |\n"
    assert f"{fresh}| 5.0 | 2.0 | 2 right, 1 wrong | 7e-01 |\n" in page
    assert "with megatron-core 0.1. The first row" in page
    assert "compared with" not in page
    assert "## transformers and torch" not in versions.page(columns(RIGHT))


def test_a_case_with_several_bugs_links_and_names_each() -> None:
    """In the table by its page, in a change by what it is."""
    first, second = outcomes.known_bugs()[:2]
    both = Cell("wrong", 270, 9, 0.7, known=(first["id"], second["id"]))
    page = versions.page(columns(RIGHT, both))
    links = ", ".join(f"[wrong]({bug['finding'].removeprefix('docs/')})" for bug in (first, second))
    assert f"| tp2 | right 3e-15 | {links}: 9 of 270 |\n" in page
    assert f"Now: wrong ({first['what']}; {second['what']}).\n" in page


@pytest.mark.parametrize("words", [[], ["none"], ["none", "more"]])
def test_the_command_takes_what_was_measured_before(
    docs: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a folder, or with one that holds no results, it makes the page from the data that is there."""
    results(docs / "results")
    versions.main([str(docs / "results")])
    monkeypatch.chdir(docs)
    assert versions.main(words) == 0
    assert capsys.readouterr().err == ""


def test_the_table_of_known_bugs_is_read_once() -> None:
    """Every cell of the page asks for it; it says what the ranks' own reader says."""
    outcomes.known_bugs.cache_clear()
    found = outcomes.known_bugs()
    assert [(bug["id"], bug["what"], bug["finding"]) for bug in found] == [(bug.id, bug.what, bug.finding) for bug in table()]
    assert outcomes.known_bugs() is found


def test_a_run_that_was_cut_off_says_nothing_of_a_release() -> None:
    """Checks that were not evaluated are no outcome; the first says why."""
    first, second = (check("unevaluated", f"not evaluated: {why}") for why in ("one", "two"))
    with pytest.raises(junit.UnreadableResults) as refused:
        outcomes.read_cell(suite(check("pass"), first, second, check("fail", "FAIL: B - off")))
    assert str(refused.value) == "a case: not evaluated: one; run it again"


def test_a_bug_is_told_by_what_stands_first_behind_its_mark() -> None:
    line = f"KNOWN: A - Max diff: 1; known upstream bug: {BUG['what']}, known upstream bug: another"
    assert outcomes.read_cell(suite(check("known", line, **KIND))).known == (BUG["id"],)


def test_where_nothing_is_refused_nothing_is_said_of_it() -> None:
    page = versions.page(columns(RIGHT, WRONG))
    assert "|\n\n## What each release changed\n" in page
    assert "Refused:" not in page
    assert "not listed:" not in page

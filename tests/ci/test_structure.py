"""What may stand in a JUnit file of ours, asked of the parser itself."""

from __future__ import annotations

import re

import pytest

from ci.structure import COUNTED, Malformed, Structure

SOUND = '<testsuites><testsuite tests="1" failures="0" errors="0" skipped="0"><testcase/></testsuite></testsuites>'


def test_a_document_type_is_refused_by_the_parser_too() -> None:
    """Wherever it stands, though no file that holds one is parsed."""
    with pytest.raises(Malformed, match=r"^a document type, which no file of ours has$"):
        Structure(f"<!DOCTYPE a>{SOUND}".encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "no element found: line 1, column 0; it is cut off"),
        ("<testsuites>", "no element found: line 1, column 12; it is cut off"),
        ("<testsuites><testsuite", "unclosed token: line 1, column 12; it is cut off"),
        ("\n a", "syntax error: line 2, column 1"),
        ("<testsuites></testsuite>", "mismatched tag: line 1, column 14"),
    ],
)
def test_what_is_no_xml_is_told_by_its_place_and_whether_it_is_cut_off(data: str, said: str) -> None:
    with pytest.raises(Malformed, match=f"^{re.escape(said)}$"):
        Structure(data.encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("<html/>", "<html>, which no file of ours has"),
        ("<testcase/>", "<testcase>, which no file of ours has"),
        (f"<{'a' * 60}/>", f"<{'a' * 40}>, which no file of ours has"),
        ("<testsuite><testcase><testcase/></testcase></testsuite>", "<testcase> in <testcase>, which no file of ours has"),
        ("<testsuite><properties><a/></properties></testsuite>", "<a> in <properties>, which no file of ours has"),
        (
            "<testsuite><properties><property><property/></property></properties></testsuite>",
            "<property> in <property>, which no file of ours has",
        ),
        ("<testsuite><failure/></testsuite>", "<failure> in <testsuite>, which no file of ours has"),
    ],
)
def test_an_element_that_we_do_not_write_there_is_named(data: str, said: str) -> None:
    with pytest.raises(Malformed, match=f"^{re.escape(said)}$"):
        Structure(data.encode())


def test_what_has_ended_is_left() -> None:
    """The next element stands beside it, not in it."""
    sound = "<testsuite><properties><property/></properties><testcase><failure/></testcase><system-out/></testsuite>"
    assert Structure(sound.encode()).wrong_counts() == "tests says nothing, and there are 1"


@pytest.mark.parametrize("attribute", COUNTED)
def test_each_count_is_compared(attribute: str) -> None:
    """A long one is cut."""
    assert Structure(SOUND.encode()).wrong_counts() == ""
    wrong = re.sub(f'{attribute}="[01]"', f'{attribute}="{"7" * 30}"', SOUND)
    there = "1" if attribute == "tests" else "0"
    assert Structure(wrong.encode()).wrong_counts() == f"{attribute} says {'7' * 20}, and there are {there}"


def test_a_file_may_hold_as_many_testcases_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused while it is parsed."""
    monkeypatch.setattr("ci.structure.MOST_CASES", 2)
    Structure(b"<testsuite><testcase/><testcase/></testsuite>")
    with pytest.raises(Malformed, match=r"^more than 2 testcases$"):
        Structure(b"<testsuite><testcase/><testcase/><testcase/></testsuite>")


def test_of_two_testsuites_both_are_compared() -> None:
    one = '<testsuite tests="0" failures="0" errors="0" skipped="0"/>'
    other = '<testsuite tests="1" failures="0" errors="0" skipped="0"/>'
    assert Structure(f"<testsuites>{one}{other}</testsuites>".encode()).wrong_counts() == "tests says 1, and there are 0"

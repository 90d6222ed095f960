"""Addresses are made of the runner's variables, whole or not at all."""

from __future__ import annotations

import pytest

from ci.links import Links, links

ON_GITHUB = {
    "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "team/megatron",
    "GITHUB_RUN_ID": "77",
    "PLUMBLINE_REPOSITORY": "owner/plumbline",
    "PLUMBLINE_REF": "c0ffee",
}


def test_on_github_there_are_the_report_and_the_page_about_a_first_red_check() -> None:
    found = links(ON_GITHUB)
    assert found.report == "https://github.example/team/megatron/actions/runs/77#artifacts"
    assert found.first_red_check == "https://github.example/owner/plumbline/blob/c0ffee/docs/first-red-check.md"


def test_the_words_of_a_failure_have_the_address_of_their_explanation() -> None:
    page = "https://github.example/owner/plumbline/blob/c0ffee/docs/words-in-failures.md"
    wanted = (("max diff", f"{page}#max-diff"), ("scaled by", f"{page}#scaled-by"))
    assert links(ON_GITHUB).explained("scaled by 0.49; max diff 1 > 0") == wanted, "in the order of the page"
    assert links(ON_GITHUB).explained("nothing that is known") == ()
    assert Links(run="a").explained("scaled by 0.49") == (), "nobody knows where the documentation is"


def test_elsewhere_there_is_nothing() -> None:
    assert links({}) == Links()
    assert (Links().report, Links().first_red_check) == ("", "")


@pytest.mark.parametrize("missing", ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"])
def test_without_one_of_its_parts_there_is_no_address_of_the_run(missing: str) -> None:
    assert links({name: value for name, value in ON_GITHUB.items() if name != missing}).run == ""


@pytest.mark.parametrize("missing", ["GITHUB_SERVER_URL", "PLUMBLINE_REPOSITORY", "PLUMBLINE_REF"])
def test_without_one_of_its_parts_there_is_no_address_of_the_documentation(missing: str) -> None:
    assert links({name: value for name, value in ON_GITHUB.items() if name != missing}).docs == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_SERVER_URL", "javascript:alert(1)"),
        ("GITHUB_SERVER_URL", "https://a/b"),
        ("GITHUB_REPOSITORY", "a"),
        ("GITHUB_REPOSITORY", "a/b/c"),
        ("GITHUB_REPOSITORY", "../.."),
        ("GITHUB_RUN_ID", "7)"),
        ("PLUMBLINE_REPOSITORY", "a/b c"),
        ("PLUMBLINE_REF", "a/../../b"),
        ("PLUMBLINE_REF", "a)b"),
    ],
)
def test_what_would_make_another_address_of_it_makes_none(name: str, value: str) -> None:
    found, of = links({**ON_GITHUB, name: value}), links(ON_GITHUB)
    assert found != of
    assert {found.run, found.docs} <= {of.run, of.docs, ""}

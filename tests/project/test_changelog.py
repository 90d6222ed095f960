"""CHANGELOG.md has the form that the release reads: one section for what is unreleased, then releases with their dates."""

from __future__ import annotations

import argparse
import re
from datetime import date

from packaging.version import Version

from tests.understood import ROOT
from validation.cli import _parser

TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def heads(level: int) -> list[str]:
    """Of this level, in their order."""
    return re.findall(rf"^{'#' * level} (.+)$", TEXT, re.MULTILINE)


def test_what_is_unreleased_comes_first_and_every_release_has_a_date() -> None:
    first, *released = heads(2)
    assert first == "[Unreleased]"
    found = [re.fullmatch(r"\[(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)\] - (\d{4}-\d\d-\d\d)", head) for head in released]
    assert all(found), released
    versions = [Version(one[1]) for one in found if one]
    assert versions == sorted(versions, reverse=True)
    days = [date.fromisoformat(one[2]) for one in found if one]
    assert days == sorted(days, reverse=True)


def test_sections_have_the_names_of_the_form() -> None:
    assert set(heads(3)) <= set(KINDS)


def test_options_that_it_names_exist() -> None:
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    known = " ".join(command.format_help() for command in commands.choices.values())
    named = sorted(set(re.findall(r"`(--[\w-]+)", TEXT)))
    assert len(named) > 5
    assert [option for option in named if option not in known] == []

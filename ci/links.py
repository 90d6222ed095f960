"""Addresses that a reader goes on to from a summary, a page or a comment: the run with its artifacts, and the documentation.

They are made of what the runner says of itself, and of nothing out of results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from validation.case.words import PAGE, words_in

FIRST_RED_CHECK = "first-red-check.md"
_DOCS = "docs"
"""The folder in a checkout, for a reader who has no address of it."""
SERVER = re.compile(r"https?://[A-Za-z0-9.:-]{1,200}")
REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_REF = re.compile(r"[A-Za-z0-9._/-]{1,200}")


@dataclass(frozen=True)
class Links:
    """`run` is the address of the run on GitHub, `docs` that of the folder of the documentation; empty where there is none."""

    run: str = ""
    docs: str = ""

    @property
    def report(self) -> str:
        """Where the run's artifacts are listed, the page among them."""
        return f"{self.run}#artifacts" if self.run else ""

    @property
    def first_red_check(self) -> str:
        """The page about a first red check."""
        return f"{self.docs}/{FIRST_RED_CHECK}" if self.docs else ""

    def explained(self, text: str) -> tuple[tuple[str, str], ...]:
        """Each word of a failure that the documentation explains, with the address of its explanation; none without one."""
        return tuple((word.name, f"{self.docs}/{PAGE}#{word.anchor}") for word in words_in(text)) if self.docs else ()


NO_LINKS = Links()


def links(environment: Mapping[str, str]) -> Links:
    """As the runner's variables have them; PLUMBLINE_REPOSITORY and PLUMBLINE_REF say which Plumbline judges.

    Nothing outside of GitHub.
    """
    server = said(environment, "GITHUB_SERVER_URL", SERVER)
    repository = said(environment, "GITHUB_REPOSITORY", REPOSITORY)
    run = said(environment, "GITHUB_RUN_ID", re.compile("[0-9]{1,20}"))
    judge = said(environment, "PLUMBLINE_REPOSITORY", REPOSITORY)
    ref = said(environment, "PLUMBLINE_REF", _REF)
    return Links(
        run=f"{server}/{repository}/actions/runs/{run}" if server and repository and run else "",
        docs=f"{server}/{judge}/blob/{ref}/{_DOCS}" if server and judge and ref else "",
    )


def said(environment: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    """A variable's value; empty if there is none, or one that would make another address of it."""
    value = environment.get(name, "")
    return value if pattern.fullmatch(value) and ".." not in value else ""

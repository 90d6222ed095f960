"""Addresses that a reader goes on to from a summary, a page or a comment: the run with its artifacts, and the documentation.

They are made of what the CI service says of itself (ci/service.py), and of nothing out of results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ci import service
from validation.case.words import PAGE, words_in

FIRST_RED_CHECK = "first-red-check.md"
_DOCS = "docs"
"""The folder in a checkout, for a reader who has no address of it."""


@dataclass(frozen=True)
class Links:
    """`run` is the address of the run on the `service`, `docs` that of the folder of the documentation; empty if there is none.

    `report` is where the run's artifacts are listed, the page among them.
    """

    run: str = ""
    docs: str = ""
    report: str = ""
    service: str = "GitHub"

    @property
    def first_red_check(self) -> str:
        """The page about a first red check."""
        return f"{self.docs}/{FIRST_RED_CHECK}" if self.docs else ""

    def explained(self, text: str) -> tuple[tuple[str, str], ...]:
        """Each word of a failure that the documentation explains, with the address of its explanation; none without one."""
        return tuple((word.name, f"{self.docs}/{PAGE}#{word.anchor}") for word in words_in(text)) if self.docs else ()


NO_LINKS = Links()


def links(environment: Mapping[str, str]) -> Links:
    """As the service's variables have them; PLUMBLINE_REPOSITORY and PLUMBLINE_REF say which Plumbline judges."""
    found = service.told(environment)
    judge, ref = (environment.get(name, "") for name in ("PLUMBLINE_REPOSITORY", "PLUMBLINE_REF"))
    return Links(found.run, found.folder(judge, ref, _DOCS), found.artifacts, found.service)

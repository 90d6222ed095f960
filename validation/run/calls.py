"""What came of a plugin's functions in the ranks of a case, and whether any of it was put anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Calls:
    """Of a plugin in one rank: the functions that it `has`, those that `did` something, and those that were about `elsewhere`.

    The last have what the exception said. `loading` says that the plugin changed megatron-core when it was loaded, before any
    function was called.
    """

    has: list[str] = field(default_factory=list)
    did: set[str] = field(default_factory=set)
    elsewhere: dict[str, str] = field(default_factory=dict)
    loading: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For the rank's report."""
        return {"has": self.has, "did": sorted(self.did), "elsewhere": self.elsewhere, "loading": self.loading}


def in_vain(reports: Sequence[Mapping[str, Any]]) -> str:
    """What of a plugin did nothing in a case, from each rank's `Calls.as_dict`; empty for a plugin that did something.

    A function says that what it is about lies in another stage. If it says so in every rank, no stage has it.
    """
    has, did = reports[0]["has"], {word for report in reports for word in report["did"]}
    elsewhere = {word: said for report in reports for word, said in report["elsewhere"].items()}
    for word in has:
        if word in elsewhere and word not in did:
            said = f" ({elsewhere[word]})" if elsewhere[word] else ""
            away = f"its {word} says in every rank that what it is about lies in another stage{said}"
            return f"{away}; name something that the case has"
    if has and not did and not any(report["loading"] for report in reports):
        return f"the case calls none of its functions ({', '.join(has)}); take a case that calls one, or leave the plugin out"
    return ""

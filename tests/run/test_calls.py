"""A plugin that did nothing in a case is told from one that did something in some ranks."""

from __future__ import annotations

import pytest

from validation.run.calls import Calls, in_vain

ALL = ["configure", "loaded"]
AWAY = "says in every rank that what it is about lies in another stage"
SOMETHING = "; name something that the case has"
THERE = Calls(ALL, {"configure", "loaded"})
NOWHERE = Calls(ALL, {"configure"}, {"loaded": "layer 7"})


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([Calls()], ""),
        ([THERE], ""),
        ([NOWHERE, THERE], ""),
        ([THERE, NOWHERE], ""),
        ([Calls(["loaded"], {"loaded"}, {"loaded": "layer 7"})], ""),
        ([NOWHERE, NOWHERE], f"its loaded {AWAY} (layer 7){SOMETHING}"),
        ([Calls(["built"], set(), {"built": ""}, loading=True)], f"its built {AWAY}{SOMETHING}"),
        (
            [Calls(["stepped"])],
            "the case calls none of its functions (stepped); take a case that calls one, or leave the plugin out",
        ),
        ([Calls(["stepped"]), Calls(["stepped"], {"stepped"})], ""),
        ([Calls(["stepped"], loading=True)], ""),
    ],
)
def test_what_did_nothing_in_every_rank_is_said(ranks: list[Calls], said: str) -> None:
    """What a module changes when it is loaded is something."""
    assert in_vain([rank.as_dict() for rank in ranks]) == said

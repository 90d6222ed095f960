"""The words in a failure that docs/words-in-failures.md explains, each below a heading of its own that reports link to."""

from __future__ import annotations

import re
from dataclasses import dataclass

PAGE = "words-in-failures.md"
"""In docs/."""


@dataclass(frozen=True)
class Word:
    """Something that a failure may say. `name` is its heading on the page, `pattern` a regular expression that finds it."""

    name: str
    pattern: str

    @property
    def anchor(self) -> str:
        """The part of a link behind #, as GitHub makes it of the heading."""
        return re.sub(r"[^\w\- ]", "", self.name.lower()).replace(" ", "-")


WORDS = (
    Word("KNOWN", r"(?m)^KNOWN: |known upstream bug: "),
    Word("NOT EVALUATED", r"(?m)^(NOT EVALUATED: |not evaluated: )"),
    Word("cannot be decided", r"cannot be decided in "),
    Word("relative error", r"relative error \S+ > "),
    Word("max diff", r"max diff \S+ > "),
    Word("scaled by", r"scaled by "),
    Word("floor", r"x floor\)"),
    Word("not finite", r" (is|are) not finite"),
    Word("worst at", r"worst at \["),
    Word("wrong: ranks", r"wrong: ranks? "),
    Word("replicas", r"replicas of .* differ in their bytes"),
    Word("no rank holds", r"no rank holds \["),
    Word("no rank reported", r"no rank reported "),
    Word("pieces overlap", r"pieces of different ranks overlap"),
    Word("was declared", r" was declared"),
    Word("of the master", r" makes of the master"),
    Word("before the step", r" of what was there before the step"),
    Word("has left", r" not what step [0-9]+ has left"),
    Word("still there", r" are still there when step "),
    Word("rounded to", r"rounded to (bfloat16|float16): "),
    Word("times the reference", r" times the reference "),
    Word("never computed", r"never computed"),
    Word("the sign is wrong", r"the sign is wrong"),
    Word("once too often", r"summed or multiplied once too often"),
    Word("a sum or a factor is missing", r"a sum or a factor is missing"),
    Word("copies with the reference as their sum", r"have the reference as their (sum|mean)"),
    Word("ranks only", r"ranks? [0-9, -]+ only"),
    Word("one element only", r"one element only"),
    Word("heads only", r"heads? [0-9, ]+ only"),
    Word("experts only", r"experts? [0-9, ]+ only"),
    Word("positions only", r"positions? [0-9:]+ only"),
    Word("sequences only", r"sequences? [0-9:]+ only"),
    Word("every position but the first", r"every position but the first"),
    Word("rotary dimensions only", r"rotary dimensions only"),
    Word("dimensions without position only", r"dimensions without position only"),
    Word("latent dimensions only", r"latent dimensions only"),
    Word("key dimensions only", r"key dimensions only"),
    Word("value dimensions only", r"value dimensions only"),
    Word("the embedding's half only", r"the embedding's half only"),
    Word("the hidden state's half only", r"the hidden state's half only"),
    Word("sharding", r"\bsharding: "),
    Word("modelling", r"\bmodelling(: |;|$)"),
    Word("first wrong", r"first wrong: "),
    Word("cached", r"\bcached: its own full forward"),
    Word("uncached", r"\buncached: its own full forward"),
    Word("one position alone", r"at position [0-9]+ alone the relative error is "),
    Word("first other token", r"first other token: number "),
    Word("HuggingFace cannot be the reference", r": HuggingFace cannot be the reference"),
    Word("before reduction", r"before reduction the ranks' sum is off by "),
    Word("not repeatable", r"not repeatable: "),
    Word("routes differ", r"routes? (?:differs?|missing)"),
    Word("near-ties", r"near-ties"),
    Word("own scores", r"own scores|by other scores than their own"),
    Word("taken out", r"and this with the known upstream bug "),
    Word("ended by the known bug", r"; without it they finish, and all checks are of that run"),
    Word("more than the known bug makes", r"more than the known upstream bug "),
    Word("passes, though it shows a known bug", r"passes, though it shows the known upstream bug "),
    Word("no checkpoint tensor set", r"holds elements that no checkpoint tensor set"),
    Word("no parameter takes", r"no parameter takes "),
    Word("no main_grad", r"has no main_grad"),
    Word("rows where the routing says", r" rows? where the routing says "),
    Word("raised", r"\b(?:rank [0-9]+|the reference) raised "),
    Word("ended without a report", r"ended without a report|was killed by |ended with exit status |are gone$"),
    Word("did not finish", r"did not finish"),
    Word("could not be started", r"could not be started"),
    Word("the gate is blind", r"the gate is blind to it"),
    Word("the same case without it", r"the same case without it "),
)


def words_in(text: str) -> tuple[Word, ...]:
    """Those that the text of a failure has, in the order of the page."""
    return tuple(word for word in WORDS if re.search(word.pattern, text))

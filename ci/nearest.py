"""What a run compared in place of a recipe that cannot run as it is: the nearest case, which no manifest asks for.

megatron-core refuses some settings together, which only a run can say; a manifest is made without it.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from ci.expected import Expected
from ci.folder import Results
from ci.junit import Suite, UnreadableResults
from validation.case import covered
from validation.case.covered import NOT_COMPARED
from validation.case.suggestions import join

_ALIKE = (covered.RECIPE, "preset", "precision", "implementation", "transport", "isolated", "seed")
"""Properties that the nearest case has in common with the one that is asked for."""
_MOST = 100
"""Files of one recipe that are looked at."""


@dataclass(frozen=True)
class Nearest:
    """Where its results are, as `Results.strangers` names it, and the sentence about the case that was asked for."""

    file: str
    why: str


def nearest(expected: Expected, results: Results, named: Container[str]) -> Nearest | None:
    """What was compared in place of a testsuite that is not there; None if it is there, or nothing says why it is not.

    `named` are the files that the manifest asks for.
    """
    if covered.RECIPE not in expected.properties or results.has(expected):
        return None
    of_recipe = f"{expected.properties.get('preset', '')}-"
    files = [file for session, file in results.files({expected.session}) if session in (expected.session, "")]
    for file in [name for name in files if name.startswith(of_recipe) and name not in named][:_MOST]:
        try:
            suite = results.suite(expected.session, file)
            changed = _changed(expected, suite)
        except (UnreadableResults, ValueError):
            continue
        if changed:
            there = results.path(expected.session, file).relative_to(results.folder)
            names = join([setting for setting, _ in changed])
            reasons = "; ".join(dict.fromkeys(why for _, why in changed))
            return Nearest(
                str(there),
                f"not compared as the recipe says, with {names} ({reasons}); {file} is the nearest case that runs: write the "
                "recipe so, and make the manifest again",
            )
    return None


def _changed(expected: Expected, suite: Suite) -> list[tuple[str, str]]:
    """The settings that the case asked for sets and this one does not, and why. Raises ValueError for contradicting results."""
    if any(suite.properties.get(name) != expected.properties.get(name) for name in _ALIKE):
        return []
    words = covered.read(suite.properties)
    return [(name, word.why) for name, word in words.items() if word.word == NOT_COMPARED and expected.covers.get(name)]

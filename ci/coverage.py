"""What became of a recipe's settings, as a gate sees it: is it said whole, does it contradict itself, and is it enough?"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ci.expected import Expected
from ci.junit import Suite
from ci.names import SESSION
from validation.case import covered
from validation.case.covered import DIFFERENT, EQUAL, Word
from validation.case.errors import UsageError
from validation.case.plural import many

_SHOWN = 5
_GOOD = ("pass", "known")
_ROUNDING = 1e-9
"""Of a share times a number: 2/3 of three settings are two."""


def share(text: str) -> float:
    """A share as an option has it. Raises ValueError for what is no number from 0 to 1."""
    found = float(text)
    if not 0 <= found <= 1:  # NaN, too
        raise ValueError(f"{text} is not from 0 to 1")
    return found


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--coverage`."""
    parser.add_argument(
        "--coverage",
        default=None,
        metavar="SHARE",
        help="of each recipe's settings that must be equal, from 0 to 1 (default: what the manifest says of each session)",
    )


def demanded(options: argparse.Namespace) -> float | None:
    """What `--coverage` asks for. Raises UsageError."""
    try:
        return None if options.coverage is None else share(options.coverage)
    except ValueError:
        raise UsageError(f"--coverage {options.coverage}: give a share from 0 to 1, such as 0.6") from None


def of_suite(expected: Expected, suite: Suite) -> Iterator[str]:
    """Why a testsuite cannot be believed in what it says of its recipe's settings."""
    if covered.RECIPE not in expected.properties:
        if _tells(suite):
            yield "tells of a recipe, and the manifest asks for none: make it with the same --recipe"
        return
    if not _tells(suite):
        return  # it lacks the property `recipe`, and another reason says so
    if why := wrong(suite):
        yield why
        return
    found = covered.read(suite.properties)
    yield from _as_expected(expected.covers, found)
    yield from _earned(expected.covers, suite, found)


def _as_expected(wanted: Mapping[str, bool], found: Mapping[str, Word]) -> Iterator[str]:
    if missing := [setting for setting in wanted if setting not in found]:
        yield f"does not say what became of {_listed(missing)}"
    if extra := [setting for setting in found if setting not in wanted]:
        yield f"tells of settings that the recipe does not have: {_listed(extra)}"


def _earned(wanted: Mapping[str, bool], suite: Suite, found: Mapping[str, Word]) -> Iterator[str]:
    """Equal is only what the case sets, and only if every check of it passes."""
    equal = [setting for setting, word in found.items() if word.word == EQUAL]
    if unset := [setting for setting in equal if setting in wanted and not wanted[setting]]:
        yield f"says equal of settings that the case does not set: {_listed(unset)}"
    if equal and not all(check.status in _GOOD for check in suite.checks):
        yield f"says equal of {_listed(equal)}, though not every check passes"
    different = [setting for setting, word in found.items() if word.word == DIFFERENT]
    if different and all(check.status == "pass" for check in suite.checks):
        yield f"says different of {_listed(different)}, though every check passes"


def _tells(suite: Suite) -> bool:
    """Whether a testsuite says anything of a recipe."""
    named = (covered.RECIPE, covered.COUNTS)
    return any(name in named or name.startswith(covered.PREFIX) for name in suite.properties)


def wrong(suite: Suite) -> str:
    """How a testsuite contradicts itself in what it says of its recipe's settings; empty if it does not."""
    try:
        if _tells(suite):
            covered.read(suite.properties)
    except ValueError as error:
        return f"coverage of the recipe: {error}"
    return ""


def by_recipe(suites: Iterable[Suite]) -> dict[tuple[str, str], dict[str, Word]]:
    """Session and file of each recipe -> what became of its settings in all cases together, without what contradicts itself."""
    return _joined((suite.properties.get(SESSION, ""), suite) for suite in suites)


def _joined(suites: Iterable[tuple[str, Suite]]) -> dict[tuple[str, str], dict[str, Word]]:
    cases: dict[tuple[str, str], list[Mapping[str, Word]]] = defaultdict(list)
    for session, suite in suites:
        recipe = suite.properties.get(covered.RECIPE)
        if recipe and not wrong(suite):
            cases[session, recipe].append(covered.read(suite.properties))
    return {key: covered.joined(found) for key, found in cases.items()}


def not_compared(suites: Iterable[Suite]) -> Iterator[tuple[str, str]]:
    """Recipes of which some settings cannot be compared, so that a verdict is not of the recipe itself, and what these are."""
    for (_, recipe), words in by_recipe(suites).items():
        if said := covered.not_compared(words):
            yield recipe, said


def too_little(
    suites: Sequence[tuple[Expected, Suite]], of_session: Mapping[str, float], asked: float | None
) -> Iterator[tuple[str, str]]:
    """Recipes of which a smaller share is equal than is `asked` for, or than the manifest asks of the session."""
    of_recipes = [(expected.session, suite) for expected, suite in suites if covered.RECIPE in expected.properties]
    sessions = {session for session, _ in of_recipes}
    if asked is not None and not sessions:
        yield "coverage", f"{asked:g} of a recipe's settings must be equal, and no testsuite is of a recipe"
    for session in of_session:
        if session not in sessions:
            yield session or "the run", "a share of its recipe's settings must be equal, and no testsuite of it is of a recipe"
    for (session, recipe), words in _joined(of_recipes).items():
        needed = asked if asked is not None else of_session.get(session)
        if needed is not None and _equal(words) < math.ceil(needed * len(words) - _ROUNDING):
            yield session or "the run", _too_little(recipe, words, needed)


def _equal(words: Mapping[str, Word]) -> int:
    return sum(word.word == EQUAL for word in words.values())


def _too_little(recipe: str, words: Mapping[str, Word], needed: float) -> str:
    others = [f"{setting} ({word.word})" for setting, word in words.items() if word.word != EQUAL]
    counted = f"{_equal(words)} of {many(len(words), 'setting')} {'is' if _equal(words) == 1 else 'are'} equal"
    return f"recipe {recipe}: {counted} ({covered.share(words):.2f}), and {needed:g} is required; not equal: {_listed(others)}"


def _listed(settings: Sequence[str]) -> str:
    more = f" and {len(settings) - _SHOWN} more" if len(settings) > _SHOWN else ""
    return f"{', '.join(settings[:_SHOWN])}{more}"

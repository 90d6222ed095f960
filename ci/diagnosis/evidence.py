"""What a testsuite tells a diagnosis: which case it is, what is wrong with it, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ci.diagnosis.traits import Trait, traits
from ci.escape import plain
from ci.junit import Check, Suite
from ci.reasons import UNFINISHED
from validation.case import failures

FORWARD, WEIGHTS, MISSING = "forward", "weights", "missing"
_PHASES = {"weights": WEIGHTS, "probe_gradients": "backward", "gradients": "backward", "steps": "steps"}
RED = ("fail", "error")
TOLD_APART = (failures.UNDECIDED, failures.MENDED)
"""Kinds of failure that say nothing of what the case computes."""
RUN, SELF_TEST = "run", "self_test"


@dataclass(frozen=True)
class Seen:
    """One case: its traits by name, its wrong checks, the names of the sound ones, and how it broke.

    Wrong checks stand in the flow of data, as they do in files. `narrowed`: checks were left out, so one that is not there says
    nothing.
    """

    suite: Suite
    traits: Mapping[str, Trait]
    wrong: tuple[Check, ...]
    sound: frozenset[str]
    broken: str
    narrowed: bool

    @property
    def arrangement(self) -> str:
        """The layout with its options: `tp2+full`."""
        said = self.suite.properties
        return said.get("arrangement") or said["layout"]

    @property
    def precision(self) -> str:
        """The precision of the case: fp64 if its testsuite does not say."""
        return self.suite.properties.get("precision", "fp64")

    @property
    def layout(self) -> str:
        """The case in a few words: `tp2+full`, or `tp2+full in bf16` if its precision is not fp64."""
        word = plain(self.arrangement, 60)
        return word if self.precision == "fp64" else f"{word} in {plain(self.precision, 20)}"

    @property
    def first(self) -> Check:
        """The first wrong check in the flow of data, of a case that has one."""
        return self.wrong[0]

    def wrong_at(self, name: str) -> Check | None:
        """The check of that name, if it is wrong."""
        return next((check for check in self.wrong if check.name == name), None)


def phase(check: Check) -> str:
    """Where in a step it looks: weights, forward, backward or steps; `missing` for a weight that no rank holds."""
    found = _PHASES.get(check.component, FORWARD)
    return MISSING if found == WEIGHTS and check.status == "error" and "max_diff" not in check.properties else found


def seen(suites: Iterable[Suite]) -> list[Seen]:
    """What each tells whose case is known; a self-test is no evidence."""
    found = ((suite, traits(suite.properties)) for suite in suites if not is_self_test(suite))
    return [_seen(suite, known) for suite, known in found if known is not None]


def is_self_test(suite: Suite) -> bool:
    """Whether it is about planted defects."""
    return suite.name.startswith("self-test-") or any(check.component == SELF_TEST for check in suite.checks)


def _seen(suite: Suite, known: Mapping[str, Trait]) -> Seen:
    broken = _how_it_broke(suite)
    bad = ("fail",) if broken else RED
    wrong = [
        check for check in suite.checks if check.status in bad and check.component != RUN and check.failure not in TOLD_APART
    ]
    sound = frozenset(check.name for check in suite.checks if check.status in ("pass", "known"))
    return Seen(suite, known, tuple(wrong), sound, broken, "left_out" in suite.properties)


def _how_it_broke(suite: Suite) -> str:
    """What ended a run that did not finish; empty for one that did."""
    if [check.message for check in suite.checks] == [UNFINISHED]:
        return "it was killed, or is still going"
    run = next((check for check in suite.checks if check.component == RUN and check.status == "error"), None)
    if run is None and "broken" not in suite.properties:
        return ""
    if run is None:
        return f"it ended with exit code {plain(suite.properties['broken'], 20)}"
    line = run.message.partition("\n")[0]
    return plain(line.partition(" - ")[2] or line, 200)


def listed(cases: Sequence[Seen], most: int = 2) -> str:
    """`tp2, tp2pp2 and 3 more`."""
    words = list(dict.fromkeys(case.layout for case in cases))
    rest = len(words) - most
    if rest <= 0:
        return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return f"{', '.join(words[:most])} and {rest} more"

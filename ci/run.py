"""Which run made a testsuite: one command with all of its attempts. All of its testsuites have the same property `run`.

A session is one command. Results of two runs in one session mean that some are old: the later run had fewer layouts, or was
killed, and left what the earlier one wrote.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

from ci.expected import Expected
from ci.folder import Results
from ci.junit import Suite
from ci.names import SESSION

_VARIABLE = "PLUMBLINE_RUN"
_WRITTEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 [0-9a-f]{1,32}", re.ASCII)
"""What `_new` makes."""


def begun(environment: Mapping[str, str] = os.environ) -> str:
    """The run that this process belongs to: that of `python -m ci attempts` if it started this process, else a new one.

    The variable names the process that set it. One that somebody exports for all commands would make two runs look like one.
    """
    parent, _, run = environment.get(_VARIABLE, "").partition(" ")
    return run if run and parent == str(os.getppid()) else _new()


@cache
def handed_on() -> Mapping[str, str]:
    """The variable that makes every process which this one starts part of one run."""
    return {_VARIABLE: f"{os.getpid()} {_new()}"}


def _new() -> str:
    """When it began, in UTC, and a number that no other run has. A later run comes later in the alphabet."""
    return f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {secrets.token_hex(8)}"


def reasons(suites: Sequence[tuple[Expected, Suite]], results: Results) -> Iterator[tuple[str, str]]:
    """Place and sentence for each testsuite that names no run, or is not of the same run as the rest of its session.

    In a flat folder sessions may share a file, such as a self-test. Such a file is of the last session that wrote it.
    """
    sharing: dict[str, set[str]] = defaultdict(set)
    for expected, _ in suites:
        sharing[results.name(expected)].add(expected.session)
    last = {session: _last(session, suites, results, sharing) for session in {expected.session for expected, _ in suites}}
    for expected, suite in suites:
        where = results.name(expected)
        if not _WRITTEN.fullmatch(suite.run):
            yield where, "names no run: nothing ties it to the other results; run the whole session again with this Plumbline"
            continue
        if elsewhere := _of_another_session(expected, suite, results):
            yield where, elsewhere
        allowed = {last[session] for session in sharing[where]}
        if suite.run not in allowed:
            wanted = last[expected.session]
            yield where, f"is of the run {suite.run}, and its session of the run {wanted}: run the whole session again"


def _of_another_session(expected: Expected, suite: Suite, results: Results) -> str:
    """What is wrong with a file in a session's own folder that another session wrote; empty if it says no session."""
    said = suite.properties.get(SESSION, "")
    if not (results.by_session and said) or said.rpartition(":")[2] == expected.session:
        return ""
    return f"is of the session {said}: give each session's folder what this session left"


def _last(session: str, suites: Sequence[tuple[Expected, Suite]], results: Results, sharing: Mapping[str, set[str]]) -> str:
    """The latest run that wrote a file of this session; a file that other sessions write, too, counts if there is no other."""
    of_session = [(results.name(expected), suite.run) for expected, suite in suites if expected.session == session]
    of_session = [(name, run) for name, run in of_session if _WRITTEN.fullmatch(run)] or of_session
    own = [run for name, run in of_session if len(sharing[name]) == 1]
    return max(own or [run for _, run in of_session])

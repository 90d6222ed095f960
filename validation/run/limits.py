"""How many files a process may have open and how many threads may be started, and how many of both a run needs.

Measured on a CPU: gloo has a thread and a file for each of a rank's process groups of several ranks, and each other rank of the
case costs a rank some connections (validation.candidate.gloo). The largest are those of tp2pp2ep2cp2.

    ranks                         1      2      4      8
    files of a rank              34     46     60     83
    threads of all processes     15     38     74    162

The command itself has more files than such a rank: single, tp2 and pp2 run with 72 at most, and not with 64.

Over nccl and staged-cpu stands what was measured when each group had a device of its own. Over staged-cpu 2 and 4 ranks have 46
and 60 files and 88 and 162 threads now:

    files of a rank              99    111    124
    threads of all processes     63    117    221

Over staged a rank has four devices, and each group four threads. On a CPU these are 46, 88, 132 and 200 files of a rank and
24, 54, 60 and 69 threads. A rank of four on an H200 had 177 files and 67 threads, which is 45 files and 7 threads more.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence

from validation.case.case import Case
from validation.case.errors import EnvironmentMissing
from validation.case.plural import many
from validation.machine import available_threads

_FILES = {"gloo": (80, 8), "staged": (112, 24)}
"""Of a rank by transport: its own, and those for each other rank."""
_OTHER_FILES = (104, 8)
_THREADS = 8
_THREADS_OF_A_RANK = {"gloo": 20, "staged": 80}
_OTHER_THREADS = 54
_ENOUGH = 4096
"""Open files that no rank needs: GPUs and their libraries take some, too."""


def allow_open_files() -> None:
    """Raise the soft limit as far as is of use and the hard one lets it; processes that are started get it, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check(cases: Sequence[Case], at_once: int) -> None:
    """Returns if `at_once` of these cases can run at the same time. Raises EnvironmentMissing."""
    if sentence := too_few_files(cases) or too_few_threads(cases, at_once):
        raise EnvironmentMissing(sentence)


def too_few_files(cases: Sequence[Case]) -> str | None:
    """The sentence to say if a rank may not have as many files open as it needs, else None."""
    needed, hard = max(map(_files, cases)), hard_limit()
    if hard is None or needed <= hard:
        return None
    return (
        f"a rank has about {many(needed, 'file')} open and may have {hard}; raise that limit with `ulimit -n "
        f"{needed}` before the run "
        "(beyond a hard limit root does it, or `nofile` in /etc/security/limits.conf), or choose a layout of fewer ranks"
    )


def too_few_threads(cases: Sequence[Case], at_once: int) -> str | None:
    """The sentence to say if fewer threads may be started than so many cases need, else None."""
    left, needed = available_threads(), _threads(cases, at_once)
    if left is None or needed <= left:
        return None
    return (
        f"this run has about {many(needed, 'thread')} and {left} more may be started here; raise that limit with "
        f"`ulimit -u` or the "
        "control group's pids.max, or choose --jobs 1 and a layout of fewer ranks"
    )


def hard_limit() -> int | None:
    """Files that a process may have open at most, None for any number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def _files(case: Case) -> int:
    own, of_a_peer = _FILES.get(case.transport, _OTHER_FILES)
    return own + of_a_peer * (case.layout.ranks - 1)


def _threads(cases: Sequence[Case], at_once: int) -> int:
    counts = (_THREADS_OF_A_RANK.get(case.transport, _OTHER_THREADS) * case.layout.ranks for case in cases)
    return _THREADS + sum(sorted(counts, reverse=True)[:at_once])

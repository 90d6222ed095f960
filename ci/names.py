"""How a check is named in a JUnit file. Inside Plumbline its name is its component and its title.

A viewer sees the files of many cases at once, and takes two testcases for one if class name and name are equal: GitLab keeps
the first. So the class name also has the testsuite and, if there is one, the session that wrote it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

SESSION = "session"
"""The property of a testsuite that says which session wrote it."""
VARIABLE = "PLUMBLINE_SESSION"
"""Has the session's name; noxfile.py sets it."""
_CALL = "PLUMBLINE_NAME"
"""Has the name of a call of the workflow (ci/caller.py)."""
_ROOT = "plumbline"
_OLD = "validation.checks.test_"
_OLD_OTHERS = {"validation": "run", "validation.convert.compare": "compare", "validation.scorecard": "scorecard"}


def session(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The session that this process belongs to, as a property; nothing if it belongs to none."""
    call, own = environment.get(_CALL), environment.get(VARIABLE)
    return {SESSION: ":".join(filter(None, (call, own)))} if own else {}


def classname(suite: str, session: str | None, component: str) -> str:
    """The class name of a testcase: `plumbline.tiny-tp2-fp64-local-gloo.mla`.

    Viewers cut at dots, so the testsuite and the session have colons instead. No name of a testsuite has a colon.
    """
    return f"{_prefix(suite, session)}{component}"


def component(suite: str, session: str | None, classname: str) -> str:
    """The component of a testcase with this class name, also of one in a file from before `plumbline.`."""
    prefix = _prefix(suite, session)
    if classname.startswith(prefix):
        return classname[len(prefix) :]
    old = classname.removeprefix(_OLD)
    ours = old != classname and "." not in old
    return old if ours else _OLD_OTHERS.get(classname, classname.lstrip("."))


@functools.lru_cache(maxsize=1024)
def _prefix(suite: str, session: str | None) -> str:
    return "".join(f"{part.replace('.', ':')}." for part in (_ROOT, session, suite) if part)

"""Which tests one process runs when pytest-xdist divides them among several: those of a file, or of a group of files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdist.scheduler import LoadScopeScheduling

GROUPS: dict[str, tuple[str, ...]] = {
    "the workflows": ("tests/workflows/",),
    "the pipelines of GitLab and Jenkins": ("tests/pipelines/",),
    "wrong models and a right one": tuple(
        f"tests/checks/test_{name}.py"
        for name in (
            "broken_models",
            "broken_mtp",
            "plugin_option",
            "reported_checks",
            "self_test",
            "sound_run",
            "staged_cases",
        )
    ),
    "nox, which runs seventy times": ("tests/test_noxfile.py",),
}
"""Files that share what takes long to make, by the beginning of their names. They take the longest, so they come first.

One file alone is here if it would be among the last, when the other processes have nothing left to do.
"""


def group_of(name: str) -> str:
    """The group of a test, by its node id; its file is a group of its own if none is named."""
    found = (group for group, files in GROUPS.items() if name.startswith(files))
    return next(found, name.partition("::")[0])


def longest_first(names: Sequence[str]) -> list[int]:
    """The positions of these node ids in the order in which they run: named groups, then the others as they are."""
    order = list(GROUPS)
    return sorted(range(len(names)), key=lambda index: _place(order, group_of(names[index])))


def _place(order: Sequence[str], group: str) -> int:
    return order.index(group) if group in order else len(order)


class Parts(LoadScopeScheduling):
    """Gives a process one group after another."""

    def _split_scope(self, nodeid: str) -> str:
        """Called by pytest-xdist; its way to say what belongs together."""
        return group_of(nodeid)


def scheduler(config: Any, log: Any) -> Parts:
    """One that keeps the order of the groups: pytest-xdist would begin with those of the most tests."""
    config.option.loadscopereorder = False
    return Parts(config, log)

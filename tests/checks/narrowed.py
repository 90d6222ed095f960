"""Runs a command whose collection is narrowed from within, as no option and no file of a user's could any more.

`python -m tests.checks.narrowed WHAT run ...`: `marks` leaves out the last layer or parameter of each kind, `plants` the first
planted defect, `items` all checks but those of weights.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.checks import narrowing
from validation import cli
from validation.checks import conftest
from validation.faults import plan


def main(what: str, command: list[str]) -> int:
    joined: Any = conftest
    if what == "marks":
        members = joined.members
        joined.members = lambda kind, case: members(kind, case)[:-1]
    elif what == "plants":
        del plan.PLANTED["attention scale"]
    else:
        sort = joined.pytest_collection_modifyitems

        def narrow(config: Any, items: list[Any]) -> None:
            sort(config, items)
            narrowing.pytest_collection_modifyitems(items)

        joined.pytest_collection_modifyitems = narrow
    return cli.main(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

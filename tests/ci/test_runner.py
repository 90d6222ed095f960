"""docs/runner.md registers machines that the sessions of ci/matrix.yaml can be given."""

from __future__ import annotations

import re

from ci.matrix import HOSTED
from ci.table import TABLE, rows, tools

PAGE = (TABLE.parents[1] / "docs" / "runner.md").read_text(encoding="utf-8")


def test_a_machine_is_registered_with_every_label_that_a_session_asks_for() -> None:
    """That of Slurm's login node is another machine's, which has no GPU."""
    runners = [*(row.runner for row in rows(TABLE)), *(tool.runner for tool in tools(TABLE))]
    asked = {label for runner in runners for label in runner if runner[0] not in HOSTED}
    assert re.findall(r"labels\[\]=([^\"]+)", PAGE) == [
        "self-hosted",
        "linux",
        *sorted(asked - {"self-hosted", "linux", "slurm"}),
    ]


def test_it_is_registered_in_a_group_of_the_organisation() -> None:
    """The default group takes jobs of any workflow."""
    (command,) = re.findall(r"^gh api -X POST (?:.*\\\n)+.*$", PAGE, re.MULTILINE)
    assert command.startswith("gh api -X POST orgs/ORG/actions/runners/generate-jitconfig")
    assert "-F runner_group_id=GROUP" in command

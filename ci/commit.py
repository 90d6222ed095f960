"""The commit that this tree is at: results say which one made them, the manifest which one they are wanted of.

On GitHub's pull_request events GITHUB_SHA is the merge of the pull request into its base, and so is what actions/checkout
checks out; every job of one run has the same. What is checked out counts: GITHUB_SHA is asked where there is no git.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from validation.case import git

ROOT = Path(__file__).parents[1]
VARIABLE = "PLUMBLINE_COMMIT"
"""Says the commit where neither git nor GitHub can, or where this tree lies in another one's repository."""
CODE = ("ci", "validation", "requirements", "noxfile.py")
"""What makes results. Whatever else a job leaves in the tree does not."""


def facts(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """As properties of a testsuite: `commit`, where it is known, and `dirty`: true, false, or unknown without git.

    `workflow_attempt` where it is not GitHub's first.
    """
    found = environment.get(VARIABLE) or git.answer(root, "rev-parse", "HEAD") or environment.get("GITHUB_SHA")
    changed = git.answer(root, "status", "--porcelain", "--", *CODE)
    dirty = "unknown" if changed is None else str(bool(changed)).lower()
    return {**({"commit": found} if found else {}), "dirty": dirty, **_again(environment)}


def _again(environment: Mapping[str, str]) -> dict[str, str]:
    """Somebody had GitHub run the jobs again, which overwrites what the jobs before have left."""
    attempt = environment.get("GITHUB_RUN_ATTEMPT", "1")
    return {} if attempt == "1" else {"workflow_attempt": attempt}

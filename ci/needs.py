"""GitHub's `needs` context, as `toJSON(needs)` writes it: every job before the gate must have succeeded.

A skipped job has no result that could be red, and a required check that depends on it would be taken for passed. The one job
that may be skipped is that for which the job `plan` has chosen nothing, and says so: the manifest asks nothing of it, either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

_SAID = {
    "failure": "failed",
    "cancelled": "was cancelled",
    "skipped": "was skipped; a required job must run",
}


def reasons(text: str) -> Iterator[str]:
    """A sentence for each job that has not succeeded, or for a context that says nothing."""
    try:
        needs = json.loads(text)
    except (ValueError, RecursionError):
        needs = None
    if not isinstance(needs, dict) or not needs:
        yield "needs: names no job; give it ${{ toJSON(needs) }}, and the gate's job `needs:` every job before it"
        return
    for job, said in needs.items():
        result = said.get("result") if isinstance(said, dict) else None
        if result != "success" and not (result == "skipped" and _nothing_to_do(job, needs.get("plan"))):
            yield f"job {job}: {_SAID.get(str(result), f'ended with {result!r}, which is not success')}"


def _nothing_to_do(job: str, plan: object) -> bool:
    """Whether the plan, which must have succeeded, made an empty matrix for the job: GitHub cannot start one of none."""
    if not isinstance(plan, dict) or plan.get("result") != "success":
        return False
    outputs = plan.get("outputs")
    return isinstance(outputs, dict) and outputs.get(job) == "[]"

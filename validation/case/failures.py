"""The kinds of failure: the `type` of a failure or an error in JUnit. The list is closed, so viewers can filter by it."""

from __future__ import annotations

LIMIT = "limit"
NOT_FINITE = "not finite"
SHAPE = "shape"
COVERAGE = "coverage"
REPLICAS = "replicas"
ROUTES = "routes"
WEIGHTS = "weights"
UNDECIDED = "undecided"
MENDED = "upstream mended"
BLIND = "defect not seen"
UNSOUND = "self-test case fails"
EXCEPTION = "exception"
CRASH = "crash"
TIMEOUT = "timeout"
MEMORY = "out of memory"
ENVIRONMENT = "environment"
UNFINISHED = "unfinished"

KINDS = {
    LIMIT: "the difference from the reference is above the limit",
    NOT_FINITE: "an element is NaN or infinite",
    SHAPE: "a rank cannot place its tensor: other shape, other type, or no tensor",
    COVERAGE: "the ranks' pieces do not make the whole tensor",
    REPLICAS: "ranks that must hold the same bytes do not",
    ROUTES: "a token goes to other experts than the reference's",
    WEIGHTS: "a weight is not the checkpoint's, a key is unused, or a tensor is not set",
    UNDECIDED: "rounding makes the limit so wide that it decides nothing",
    MENDED: "a check passes that shows a known upstream bug",
    BLIND: "the self-test's planted defect is not seen where it is",
    UNSOUND: "the self-test's case fails without the defect, and no case of the run does",
    EXCEPTION: "the code under test, or a check, raised an exception",
    CRASH: "a rank ended without a report, was killed, or lost its connection",
    TIMEOUT: "the ranks did not finish in time",
    MEMORY: "a GPU or the machine is out of memory",
    ENVIRONMENT: "something is missing on the machine, or used up",
    UNFINISHED: "the run was killed, or is still going",
}
"""Kind -> what it says."""


def of_tensor(failure: str, name: str, routes: bool = False) -> str:
    """The kind of a failure by what was compared: that weights or routes are not equal says more than a limit.

    `name` is the tensor's in the ranks' reports; `routes` says that it is a map of chosen experts.
    """
    if failure in (LIMIT, SHAPE) and name.startswith("weights/"):
        return WEIGHTS
    return ROUTES if failure == LIMIT and routes else failure

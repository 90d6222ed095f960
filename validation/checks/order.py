"""Where a tensor stands in the flow of data: forward from the front, gradients from the back."""

from __future__ import annotations

import functools

from validation.case import latent_norms
from validation.case.case import Case
from validation.case.inference import GREEDY, inferred
from validation.case.parameters import parameters
from validation.case.probes import observed
from validation.case.steps import stepped

RUN = (0, 0)
WEIGHTS = (1, -1)
"""Of a check of all weights."""
UNPLACED = (9, 0)
"""Of a check that compares no tensor by name: after all that do."""


def place(case: Case, name: str) -> tuple[int, int]:
    """The position of a compared tensor by its name in the ranks' reports; the run itself comes before all."""
    return _places(case).get(name, RUN)


@functools.cache
def _places(case: Case) -> dict[str, tuple[int, int]]:
    probes, known = list(observed(case)), list(parameters(case.model))
    groups = (
        [*(f"weights/{name}" for name in known), latent_norms.NAME],
        probes,
        [f"probe_gradients/{name}" for name in reversed(probes)],
        [f"gradients/{name}" for name in reversed(known)],
        [one.name for one in stepped(case).values()],
        [*inferred(case), GREEDY],
    )
    return {name: (group, index) for group, names in enumerate(groups, start=1) for index, name in enumerate(names)}

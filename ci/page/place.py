"""Where a check stands on the page: its component, and its cell in the map of layers and probes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from validation.case.inference import TITLES
from validation.case.parameters import TITLES as PARAMETERS
from validation.case.probes import TITLES as PROBES

COMPONENTS = {
    "run": "Run",
    "weights": "Weights",
    "layers": "Residual stream",
    "mla": "MLA",
    "mlp": "Dense MLP",
    "router": "Router",
    "moe": "MoE",
    "output": "Output",
    "mtp": "MTP",
    "probe_gradients": "Probe gradients",
    "gradients": "Gradients",
    "steps": "Steps",
    "inference": "Inference",
    "self_test": "Self-test",
}
"""The modules of validation/checks, in the order of the report."""
FORWARD, PROBE_GRADIENTS, GRADIENTS, WEIGHTS = "Forward", "Probe gradients", "Parameter gradients", "Weights"
PHASES = tuple(TITLES.values())
"""The maps of a case in mode inference."""
MODEL = "Model"
"""The column of what belongs to no layer."""

_TITLE = re.compile(
    rf"(?:(?P<phase>{'|'.join(PHASES)}) )?"
    r"(?:Step (?P<step>[0-9]{1,4}) )?(?:(?P<place>Layer|MTP) (?P<layer>[0-9]{1,4}) )?(?P<what>.+?)"
    r"(?P<gradient> Gradient)?(?: (?:First|Second) Moment)?"
)
_FRONT = ("embedding", "mtp.embedding_norm", "mtp.hidden_norm", "mtp.projection")
_PARAMETERS_FRONT = ("model.embed_tokens.weight", "enorm.weight", "hnorm.weight", "eh_proj.weight")
_PARAMETERS_BACK = ("model.norm.weight", "lm_head.weight")


def in_order(titles: Mapping[str, str], front: Sequence[str], back: Sequence[str] = ()) -> list[str]:
    """The titles in the flow of data, for the tables of titles list a layer before what is around it."""
    middle = [name for name in titles if name not in (*front, *back)]
    return [titles[name] for name in (*front, *middle, *back)]


_TITLES = (*in_order(PROBES, _FRONT), "Gradient Norm", *in_order(PARAMETERS, _PARAMETERS_FRONT, _PARAMETERS_BACK))
_ROWS = {title: row for row, title in enumerate(dict.fromkeys(_TITLES))}


@dataclass(frozen=True)
class Place:
    """A cell: which map, and the labels of its row and column."""

    view: str
    row: str
    column: str


def component(name: str) -> str:
    """What the page calls a component; a module of the user's own is one under its own name."""
    own = name.rpartition(".")[2].removeprefix("test_").replace("_", " ").capitalize()
    return COMPONENTS.get(name, own or name)


def component_order(name: str) -> tuple[int, str]:
    """A key to sort components by: in the order of the report, own ones behind, by name."""
    known = list(COMPONENTS.values())
    return (known.index(name) if name in known else len(known), name)


def place(title: str) -> Place | None:
    """The cell of a check; None for one that is about no tensor of the model."""
    found = _TITLE.fullmatch(title)
    if found is None or (what := found["what"]) not in _ROWS:
        return None
    column = {"Layer": found["layer"], "MTP": f"MTP {found['layer']}"}.get(found["place"] or "", MODEL)
    return Place(_view(found), what, column)


def _view(found: re.Match[str]) -> str:
    parameter = found["what"] not in PROBES.values()
    if found["phase"]:
        return str(found["phase"])
    if found["step"]:
        return f"Step {int(found['step'])}"
    if found["gradient"]:
        return GRADIENTS if parameter else PROBE_GRADIENTS
    return WEIGHTS if parameter else FORWARD


def view_order(view: str) -> tuple[int, int]:
    """A key to sort maps by: forward, backward, then what the steps left."""
    first = (FORWARD, PROBE_GRADIENTS, GRADIENTS, WEIGHTS, *PHASES)
    return (first.index(view), 0) if view in first else (len(first), int(view.rpartition(" ")[2]))


def row_order(row: str) -> int:
    """A key to sort rows by: the flow of data."""
    return _ROWS[row]


def column_order(column: str) -> tuple[int, int]:
    """A key to sort columns by: the model's own, its layers, those of multi-token prediction."""
    if column == MODEL:
        return (0, 0)
    return (2, int(column.split()[1])) if column.startswith("MTP") else (1, int(column))

"""Probes, parameters and planted defects, with the component and the title that a check of each has."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from docs.made.tables import code, table
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.parameters import parameters as known
from validation.case.preset import TINY
from validation.case.probes import observed
from validation.case.training import Training
from validation.checks.counted import counted
from validation.faults import catalogue
from validation.faults.plan import PLANTED

_MODEL = replace(TINY.model, num_nextn_predict_layers=1)
_BALANCED = Training(balancing="aux_loss")
_EVERYTHING = Case("tiny", _MODEL, Layout(), "fp64", "local", "gloo", 1, 4, 2, 48, training=_BALANCED, isolated=True)
"""A case that records every probe: of an isolated step with a balancing loss, and a layer of multi-token prediction."""


_SPARSE = replace(TINY.model, index_topk=8, index_n_heads=4, index_head_dim=48)
_OWN = replace(_EVERYTHING, model=_SPARSE, isolated=False)
"""Sparse attention, which has no such layer."""


def probes() -> str:
    """Each probe once, however many layers have it."""
    return _table(_EVERYTHING, ())


def sparse_probes() -> str:
    """Those of sparse attention that other models have not."""
    return _table(_OWN, {_anywhere(name) for name in observed(_EVERYTHING)})


def _anywhere(name: str) -> str:
    return re.sub(r"^layers\.\d+\.", "layers.N.", name)


def _table(case: Case, without: Collection[str]) -> str:
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    component = {title: component for component, title in counted(case)}
    for probe in observed(case).values():
        if _anywhere(probe.name) in without:
            continue
        name = _anywhere(probe.name)
        title = _general(probe.title)
        cells = (component[probe.title], title, code(name), ", ".join(probe.axes), _yes(probe.has_gradient))
        rows.setdefault((name, title), cells)
    return table(("component", "title of the check", "probe", "dimensions", "gradient"), rows.values())


def parameters() -> str:
    """Each parameter of the checkpoint once, however many layers have it."""
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    for one in (*known(_MODEL).values(), *known(_SPARSE).values()):
        name = re.sub(r"\.layers\.\d+\.", ".layers.N.", one.name)
        rows.setdefault((name, _general(one.title)), (_general(one.title), code(name), _yes(one.trained)))
    return table(("title", "tensor of the checkpoint", "gradient"), rows.values())


def planted() -> str:
    """What the self-test plants of each kind."""
    rows = ((kind, "; or ".join(catalogue.find(name).does for name, _ in faults)) for kind, faults in PLANTED.items())
    return table(("defect", "what is planted"), rows)


def _general(title: str) -> str:
    return re.sub(r"^(Layer|MTP) \d+ ", r"\1 N ", title)


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"

"""The catalogue: every fault's file says all that is known of it, and it can run where it says that it shows."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest

from ci.releases import OLDER
from validation.case import preflight
from validation.checks.order import RUN, place
from validation.faults import catalogue
from validation.faults.fault import GROUPS, KINDS, Fault
from validation.faults.left_out import LEFT_OUT
from validation.machine import version
from validation.run.known import known_bugs
from validation.run.plugin import FUNCTIONS

FAULTS = catalogue.faults()
every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
PREFIXES = {"gradients": "backward", "probe_gradients": "backward", "steps": "step"}


def test_there_are_faults_of_every_group() -> None:
    assert len(FAULTS) >= 70
    assert set(Counter(fault.group for fault in FAULTS)) == set(GROUPS)
    assert min(Counter(fault.group for fault in FAULTS).values()) >= 5


@every_fault
def test_a_file_is_named_by_its_fault_and_is_a_plugin(fault: Fault) -> None:
    module = importlib.import_module(f"validation.faults.catalogue.{fault.id.lower()}")
    assert module.FAULT is fault
    assert fault.plugin == module.__name__
    assert any(hasattr(module, word) for word in FUNCTIONS)


@every_fault
def test_it_says_where_it_comes_from(fault: Fault) -> None:
    assert fault.sources
    assert all(source.startswith("https://") for source in fault.sources)
    assert (module_doc := importlib.import_module(fault.plugin).__doc__)
    assert module_doc.lower().startswith(fault.does.lower())


@every_fault
def test_its_check_is_one_of_its_cases_and_of_its_kind(fault: Fault) -> None:
    assert fault.kind in KINDS
    assert PREFIXES.get(fault.first.partition("/")[0], "forward") == fault.kind
    for layout in fault.layouts:
        assert place(fault.case(layout), fault.first_in(fault.case(layout))) != RUN


@every_fault
def test_its_cases_can_run_and_no_known_bug_hides_it(fault: Fault) -> None:
    for case in map(fault.case, fault.layouts):
        preflight.check(case, max_ranks=4, gpus=0, memory=None)
        check = fault.first_in(case)
        hidden = [bug.id for bug in known_bugs(case) if bug.excuses(case, check)]
        if hidden and version("megatron-core") != OLDER.megatron_core:
            pytest.skip(f"the catalogue is measured with megatron-core {OLDER.megatron_core}; this one has {hidden[0]}")
        assert hidden == []


@every_fault
def test_precision_faults_run_in_a_lower_precision_and_no_others_do(fault: Fault) -> None:
    assert (fault.precision in ("fp32", "bf16")) == (fault.group == "precision")


def test_what_is_left_out_is_not_there_and_has_its_reason() -> None:
    assert not set(LEFT_OUT) & set(catalogue.ids())
    assert all(LEFT_OUT.values())

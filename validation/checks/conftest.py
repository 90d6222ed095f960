"""Joins the checks to pytest: options, cases, order, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from validation.case import tree
from validation.case.errors import PlumblineError, UsageError
from validation.checks.inventory import Inventory
from validation.checks.items import has_a_case, parity_of, planted_of, section_of
from validation.checks.marks import concerns, members
from validation.checks.parity import Parity
from validation.checks.planted import Planted
from validation.checks.protocol import Straight
from validation.checks.report import Report
from validation.checks.selection import Selection
from validation.checks.self_test import SelfTest
from validation.checks.titles import title_of
from validation.faults.plan import Plan, plan_of
from validation.run.command_line import add_options
from validation.run.options import Given, Settings, settings

SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
PLAN: pytest.StashKey[Plan] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `python -m validation run`."""
    add_options(parser.getgroup("plumbline", "what to compare (validation)").addoption)


def pytest_configure(config: pytest.Config) -> None:
    """Work out the cases; what is wrong with them is said before anything is collected."""
    config.addinivalue_line("markers", "every(name, kind): one check for every layer or parameter of a kind")
    given = next((plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, Given)), None)
    try:
        wanted = given.settings if given else settings(config.option, shlex.join(sys.argv))
        if given is None and wanted.place.several:
            raise UsageError(f"several nodes run `{tree.VALIDATION} run`; give pytest --cluster dsw for this machine alone")
        config.stash[SETTINGS], config.stash[PLAN] = wanted, plan_of(wanted)
    except PlumblineError as error:
        if given is None:
            from validation.checks.unstarted import ended

            ended(sys.argv[1:])
        pytest.exit(str(error), returncode=error.exit_code)
    config.option.no_summary, config.option.no_header = True, True
    config.option.verbose -= 2
    if wanted.manifest:
        config.pluginmanager.register(Inventory(wanted, config.stash[PLAN]), "plumbline-report")
        return
    config.pluginmanager.register(Report(config, wanted, config.stash[PLAN], given), "plumbline-report")
    config.pluginmanager.register(Straight(), "plumbline-straight")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One check per case, and per layer or parameter where it is marked so; one per planted defect."""
    report: Any = metafunc.config.pluginmanager.get_plugin("plumbline-report")
    if "planted" in metafunc.fixturenames:
        plants = metafunc.config.stash[PLAN].plants
        ids = [plant.kind.replace(" ", "-") for plant in plants]
        metafunc.parametrize("planted", [Planted(plant, report) for plant in plants], ids=ids)
    if "parity" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("every")
    cases = [case for case in metafunc.config.stash[SETTINGS].cases if concerns(metafunc.module, case)]
    # Parameters and no fixtures: there are thousands of checks, and setting up a fixture costs as much as a check.
    if mark is None:
        metafunc.parametrize("parity", [Parity(case, report) for case in cases], ids=[case.name for case in cases])
        return
    name, kind = mark.args
    pairs = [(case, member) for case in cases for member in members(kind, case)]
    ids = [f"{case.name}-{member}" for case, member in pairs]
    metafunc.parametrize(("parity", name), [(Parity(case, report), member) for case, member in pairs], ids=ids)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Case by case, section by section, layer by layer, each layer in data-flow order; the self-test after all cases.

    Of these the ones that are selected.
    """
    # A check for every layer of a kind that the model has none of (experts in a dense model) is no check of this model.
    if items:
        order = {case.name: index for index, case in enumerate(items[0].config.stash[SETTINGS].cases)}
        items[:] = sorted((item for item in items if has_a_case(item)), key=lambda item: _place(item, order))
    if selection := _selection(config):
        try:
            _select(config, items, selection)
        except UsageError as error:
            items[:] = []
            report: Any = config.pluginmanager.get_plugin("plumbline-report")
            report.refuse(error)


def _selection(config: pytest.Config) -> Selection:
    given = next((plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, Given)), None)
    return Selection(given.settings.only, given.failed) if given else Selection()


def _select(config: pytest.Config, items: list[pytest.Item], selection: Selection) -> None:
    """Leave out what is not selected. Raises UsageError."""
    self_test = SelfTest(config.stash[PLAN], config.stash[SETTINGS].cases[0]).name
    named = [(item, (parity.case.name if (parity := parity_of(item)) else self_test, title_of(item))) for item in items]
    chosen = selection.chosen(name for _, name in named)
    config.hook.pytest_deselected(items=[item for item, name in named if name not in chosen])
    items[:] = [item for item, name in named if name in chosen]


def _place(item: Any, order: Mapping[str, int]) -> tuple[int, int, int, int]:
    """Where an item stands: its case's place in `order` (by name), its section, its layer, its line in the module."""
    parity = parity_of(item)
    layer = item.callspec.params.get("layer", -1) if hasattr(item, "callspec") else -1
    place = order[parity.case.name] if parity else len(order) if planted_of(item) else -1
    return place, section_of(item)[0], layer, item.function.__code__.co_firstlineno

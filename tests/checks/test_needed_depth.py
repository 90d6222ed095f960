"""What a selected check needs of the ranks: no more than the tensor that it compares, and for the run itself all of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from validation.case.case import Case
from validation.case.depth import FORWARD
from validation.checks import test_mla, test_run, titles
from validation.checks.needs import Needs
from validation.checks.parity import Parity
from validation.checks.titles import Nothing
from validation.run.options import parsed

CHECKS = Path(titles.__file__).parent


def case(*words: str) -> Case:
    return parsed(["--layouts", "tp2", *words]).cases[0]


def item(of: Case, check: Any, path: Path, **parameters: Any) -> Any:
    """A check as pytest has collected it."""
    given = {"parity": Parity(of, Nothing()), **parameters}
    return SimpleNamespace(
        path=path,
        config=SimpleNamespace(rootpath=CHECKS.parents[1]),
        callspec=SimpleNamespace(params=given),
        fixturenames=list(given),
        obj=check,
        nodeid=f"{path.name}::{check.__name__}",
    )


def output(of: Case) -> Any:
    return item(of, test_mla.test_attention_output, CHECKS / "test_mla.py", layer=0)


def finish(of: Case) -> Any:
    return item(of, test_run.test_ranks_finish, CHECKS / "test_run.py")


def test_a_tensor_of_the_forward_pass_needs_no_more() -> None:
    of = case()
    assert Needs.of(of, [output(of)]) == Needs(FORWARD, without_bugs=False)


@pytest.mark.parametrize("words", [(), ("--implementation", "local-stock")])
def test_the_run_itself_needs_all_of_it_and_the_run_without_known_bugs(words: tuple[str, ...]) -> None:
    """One that breaks in an optimizer step, or without its known bugs, breaks again."""
    of = case(*words)
    assert Needs.of(of, [finish(of)]) == Needs.of(of, [output(of), finish(of)]) == Needs()


def test_a_users_own_module_may_need_anything(tmp_path: Path) -> None:
    of = case()
    assert Needs.of(of, [item(of, test_mla.test_attention_output, tmp_path / "test_mla.py", layer=0)]) == Needs()

"""The table of mutants and the list of equivalent ones: nothing is forgotten, and nothing in them is gone."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.mutants.table import ROOT, Equivalent, Mutation, Row, chosen, equivalent, left_out, rows
from validation.case.errors import UsageError

DECIDING = (
    "validation/checks/parity.py",
    "validation/checks/again.py",
    "validation/checks/judging.py",
    "validation/reference/floor.py",
    "validation/candidate/load.py",
    "validation/candidate/place.py",
)
NO_FUNCTION = ("__init__.py",)


def modules() -> set[str]:
    return {module for row in rows() for module in row.modules}


def test_every_module_that_decides_is_mutated_or_left_out_with_a_reason() -> None:
    """Those of the pipeline, of the comparison, and those in which weights and floors are made."""
    found = [
        path for folder in ("ci", "ci/diagnosis", "ci/page", "validation/compare") for path in (ROOT / folder).glob("*.py")
    ]
    names = {str(path.relative_to(ROOT)) for path in found if path.name not in NO_FUNCTION}
    assert modules() | set(left_out()) == names | set(DECIDING)
    assert modules() & set(left_out()) == set()
    assert all(left_out().values())


def test_no_module_is_in_two_rows() -> None:
    """It would be mutated twice."""
    named = [module for row in rows() for module in row.modules]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.modules[0])
def test_every_test_of_the_table_exists(row: Row) -> None:
    assert [path for path in row.tests if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("test", [test for row in rows() for test in row.without])
def test_every_test_that_is_left_out_is_one_of_its_row_s(test: str) -> None:
    """A name that is gone would leave out nothing, or something else later."""
    file, _, name = test.partition("::")
    assert any(file in row.tests for row in rows() if test in row.without)
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("mutation", equivalent().mutations, ids=str)
def test_every_equivalent_mutation_is_one_of_code_that_is_there(mutation: Mutation) -> None:
    """Its module is mutated, its function exists, and the text that it changes stands in the function."""
    assert mutation.module in modules()
    found = texts(mutation.module)
    assert mutation.function in found
    assert mutation.was in found[mutation.function]
    assert equivalent().mutations[mutation].strip()


@functools.cache
def texts(module: str) -> dict[str, str]:
    """The source of every function of a module, in one line each."""
    source = (ROOT / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    return {
        name: " ".join(line.strip() for line in lines[node.lineno - 1 : node.end_lineno])
        for name, node in functions(ast.parse(source))
    }


def functions(tree: ast.Module) -> list[tuple[str, ast.FunctionDef]]:
    """Every function of a module and of its classes, by the name that mutants have."""
    found: list[tuple[str, ast.FunctionDef]] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            found += [(f"{node.name}.{inner.name}", inner) for inner in node.body if isinstance(inner, ast.FunctionDef)]
    return found


def test_modules_are_chosen_out_of_their_rows() -> None:
    """Each with the tests of its row; none asked for is all."""
    assert chosen([]) == rows()
    attempts, verdict = chosen(["validation/compare/verdict.py", "ci/attempts.py"])
    assert (attempts.modules, verdict.modules) == (("ci/attempts.py",), ("validation/compare/verdict.py",))
    assert "tests/ci/test_attempts.py" in attempts.tests
    assert attempts.without


def test_a_module_that_is_not_mutated_is_refused() -> None:
    """With the reason, or with what there is."""
    with pytest.raises(UsageError, match=r"validation/compare/kernels\.py is not mutated: Triton"):
        chosen(["validation/compare/kernels.py"])
    with pytest.raises(UsageError, match=r"ci/gat\.py is in no row of table\.yaml; there are .*ci/gate\.py"):
        chosen(["ci/gat.py"])


def test_an_entry_is_read_by_its_text(tmp_path: Path) -> None:
    """A change that only adds or only takes away has one half."""
    listed = tmp_path / "equivalent.yaml"
    listed.write_text(
        "anywhere: [{was: x=False, becomes: x=None, why: falsy}]\n"
        "mutations:\n ci/gate.py:\n  judged:\n  - {was: 'a > b', becomes: 'a >= b', why: never equal}\n  - {was: c, why: x}\n"
    )
    found = equivalent(listed)
    assert found.mutations == {
        Mutation("ci/gate.py", "judged", "a > b", "a >= b"): "never equal",
        Mutation("ci/gate.py", "judged", "c", ""): "x",
    }
    assert found.anywhere == {("x=False", "x=None"): "falsy"}


@pytest.mark.parametrize(
    ("was", "becomes", "nothing"),
    [
        ("f(x=False)", "f(x=None)", True),
        ("f(x=False), g(x=False)", "f(x=False), g(x=None)", True),
        ("f(x=False), g(x=False)", "f(x=None), g(x=False)", True),
        ("f(x=False), g(x=False)", "f(x=None), g(x=None)", False),
        ("f(x=False)", "f(x=True)", False),
        ("f(y=False)", "f(y=None)", False),
        ("f(x=False)", "g(x=None)", False),
    ],
)
def test_an_exchange_that_changes_nothing_is_all_that_a_mutation_may_be(was: str, becomes: str, nothing: bool) -> None:
    """One of several occurrences, and nothing beside it."""
    known = Equivalent({}, {("x=False", "x=None"): "falsy"})
    assert known.by_kind(Mutation("ci/gate.py", "judged", was, becomes)) is nothing

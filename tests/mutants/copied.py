"""A copy of the repository that mutmut can mutate: the working tree is left alone."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.table import ROOT, Row

_LEFT = shutil.ignore_patterns(
    ".git", ".nox", ".venv", ".*_cache", "__pycache__", "results", "node_modules", ".plumbline", "*.so"
)
_SOURCES = ("ci", "validation")
_SETTINGS = {
    "source_paths": _SOURCES,
    "process_isolation": ("forkserver",),  # torch keeps threads, and a fork after it has used them hangs
    # These two collect garbage at the end of every run, which takes longer than most tests.
    "pytest_add_cli_args": ("-p", "no:cacheprovider", "-p", "no:unraisableexception", "-p", "no:threadexception"),
    # What --help says. What the options do is asked of the commands.
    "do_not_mutate_patterns": (r"\.add_argument\(",),
    "use_git_change_detection": ("false",),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def make(folder: Path, row: Row) -> None:
    """Copy the repository to `folder`, with mutmut's settings for this row."""
    shutil.copytree(ROOT, folder, ignore=_LEFT)
    for module in row.modules:
        path = folder / module
        path.write_text(undecorated(path.read_text(encoding="utf-8")), encoding="utf-8")
    beside = [entry.name for entry in folder.iterdir() if entry.name not in _SOURCES]
    settings = {
        **_SETTINGS,
        "only_mutate": row.modules,
        "pytest_add_cli_args": (*_SETTINGS["pytest_add_cli_args"], *(f"--deselect={test}" for test in row.without)),
        "pytest_add_cli_args_test_selection": row.tests,
        "also_copy": beside,
    }
    lines = ["[mutmut]", *(f"{name} = " + "\n    ".join(values) for name, values in settings.items())]
    (folder / "setup.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def undecorated(source: str) -> str:
    """The same program with `f = decorator(f)` behind each function in place of `@decorator` in front of it.

    mutmut leaves decorated functions alone, and half of what decides a verdict is a property or runs under `no_grad`.
    """
    lines = source.splitlines()
    for function in sorted(_decorated(ast.parse(source)), key=lambda one: one.lineno, reverse=True):
        # The innermost decorator is applied first. Functions further up stay where they are.
        front = " " * function.col_offset
        applied = [f"{front}{function.name} = {ast.unparse(one)}({function.name})" for one in reversed(function.decorator_list)]
        end = function.end_lineno or function.lineno
        lines[end:end] = applied
        first = function.decorator_list[0].lineno - 1
        del lines[first : function.lineno - 1]
    return "\n".join(lines) + "\n"


def _decorated(tree: ast.Module) -> Iterator[Function]:
    """Functions that mutmut would leave out."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and node.decorator_list:
            names = [ast.unparse(one) for one in node.decorator_list]
            if names not in (["staticmethod"], ["classmethod"]):
                yield node

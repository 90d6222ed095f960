"""Imports point one way, and planning a pipeline needs no torch (docs/design.md, section 2)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for room in ("validation", "ci") for path in (ROOT / room).rglob("*.py"))
ORDER = (
    "case",
    "cache recipe inspection",
    "plan",
    "compare",
    "reference",
    "candidate",
    "inference",
    "run",
    "faults",
    "checks convert",
    "scorecard pairwise rollout",
)
"""Rooms of validation from the bottom to the top; those of one step know nothing of each other."""
LIGHT = (ROOT / "ci", ROOT / "ci" / "page", *(ROOT / "validation" / room for room in ("case", "recipe", "inspection", "plan")))
"""Folders whose modules need no torch; `describe.py` of the last runs in a process of its own."""
HEAVY = ("torch", "transformers", "megatron", "numpy", "safetensors")


def room(module: str) -> str:
    """`case` of `validation.case.model`; `cli` of `validation.cli`; `ci` of anything of ci."""
    parts = module.split(".")
    return "ci" if parts[0] == "ci" else parts[1] if len(parts) > 1 else ""


def level(name: str) -> int:
    """How high a room lies; of the modules beside the rooms, cli and doctor may see all and machine be seen by all."""
    return next((height for height, rooms in enumerate(ORDER) if name in rooms.split()), -1)


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in ("validation", "ci"))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] in ("validation", "ci"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def points_down(source: str, target: str) -> bool:
    """Whether an import of room `target` in room `source` points the right way."""
    if source == target:
        return True
    if source == "ci":
        return target == "case"
    if target == "ci":
        return source in ("checks", "convert", "scorecard", "pairwise", "rollout", "cli")
    if target in ("cli", "doctor", "__main__"):
        return source in ("cli", "__main__")
    return level(source) == -1 or level(target) < level(source)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    """Each import leads to the same room or to one below."""
    source = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    wrong = [target for target in imports(path) if not points_down(source, room(target))]
    assert wrong == []


def test_no_rank_imports_transformers() -> None:
    """Whatever the fork server imports of ours: HuggingFace's side is computed elsewhere, and costs a second to import."""
    known = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    reached, waiting = set[str](), ["validation.run.preload"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        names = {target if target in known else target.rpartition(".")[0] for target in imports(known[name])}
        # The one rank of a case in lockstep imports this one when it runs: it computes HuggingFace's side itself.
        waiting += sorted((names & known.keys()) - reached - {"validation.candidate.lockstep"})
    assert {"validation.candidate.experts", "validation.reference.sources"} <= reached
    assert [name for name in sorted(reached) if "from transformers" in known[name].read_text()] == []


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("compare", "case", True),
        ("compare", "cache", True),
        ("cache", "case", True),
        ("recipe", "case", True),
        ("recipe", "cache", False),
        ("recipe", "candidate", False),
        ("recipe", "run", False),
        ("run", "recipe", True),
        ("plan", "recipe", True),
        ("recipe", "plan", False),
        ("plan", "run", False),
        ("case", "recipe", False),
        ("ci", "recipe", False),
        ("case", "cache", False),
        ("case", "compare", False),
        ("reference", "candidate", False),
        ("candidate", "reference", True),
        ("run", "candidate", True),
        ("run", "checks", False),
        ("checks", "ci", True),
        ("convert", "ci", True),
        ("run", "ci", False),
        ("ci", "case", True),
        ("ci", "run", False),
        ("checks", "cli", False),
        ("cli", "run", True),
        ("faults", "run", True),
        ("run", "faults", False),
        ("checks", "faults", True),
        ("scorecard", "checks", True),
        ("checks", "scorecard", False),
        ("scorecard", "ci", True),
        ("pairwise", "checks", True),
        ("pairwise", "scorecard", False),
        ("rollout", "run", True),
        ("run", "rollout", False),
        ("rollout", "ci", True),
    ],
)
def test_the_arrows_are_those_of_the_design(source: str, target: str, allowed: bool) -> None:
    """What the test above lets through and what it does not."""
    assert points_down(source, target) is allowed


def test_the_package_starts_the_others_and_imports_neither() -> None:
    """Whoever imports plumbline, in a notebook or a test, gets none of it; and a checkout works without the package."""
    package = sorted((ROOT / "plumbline").rglob("*.py"))
    assert package
    assert [str(path) for path in package if list(imports(path))] == []
    assert [
        str(path) for path in MODULES if "import plumbline" in path.read_text() or "from plumbline" in path.read_text()
    ] == []


def heavy_after(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after running `code`."""
    told = f"import sys, json\n{code}\nsys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stderr.splitlines()[-1]))


def test_the_words_of_a_case_and_the_pipeline_need_no_torch() -> None:
    """Every module of validation.case, validation.recipe and ci, the options and the command line, in one interpreter."""
    light = [path for path in MODULES if path.parent in LIGHT and path.name != "describe.py"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in light]
    assert {"ci.table", "validation.case.preflight", "validation.recipe.standin"} <= set(names)
    wanted = [*names, "validation.run.options", "validation.run.entry", "validation.run.launch", "validation.cli"]
    assert heavy_after(f"import {', '.join(wanted)}") == []


def test_collecting_the_checks_is_light() -> None:
    """Which checks a case has is known without torch, and which defects are planted beside it."""
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "validation/checks", "--layouts", "single,tp2", "--self-test"]
    code = f"import pytest\ncode = pytest.main({words!r})\nassert code == 0, code"
    assert heavy_after(code) == []


def test_this_test_sees_what_is_loaded() -> None:
    """A module that does need torch is seen to load it."""
    assert "torch" in heavy_after("import validation.compare.precision")

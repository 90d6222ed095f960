"""Runs commands as `tests.checks.commands` does: those of a sound gate, and a last one of a gate and a table that are wrong.

The classes are plugins, put in the ranks in the place of the catalogue's faults.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = "tests.checks.blind"


class Ineffective:
    """No defect at all."""

    @staticmethod
    def loaded(case: Any, model: Any) -> None:
        """Nothing is changed."""


class SomewhereElse:
    """A defect that everything behind it shows as well, which proves nothing of what comes later."""

    @staticmethod
    def loaded(case: Any, model: Any) -> None:
        """The embedding is wrong."""
        model[0].embedding.word_embeddings.weight.data *= 2


class Raises:
    """A defect that ends the run."""

    @staticmethod
    def wrapped(case: Any, model: Any) -> None:
        """A mistake."""
        raise ZeroDivisionError("in the planted defect")


def blind(plugins: dict[str, str]) -> None:
    """Put these plugins in the place of the catalogue's, by kind, and let the check of core attention pass anything.

    The other checks' limits are eight orders too wide.
    """
    from validation.case.probes import observed
    from validation.checks import judging as checks
    from validation.checks import limiting, test_mla
    from validation.compare.limits import Limits
    from validation.faults import catalogue, plan

    find, wrong = catalogue.find, {plan.PLANTED[kind][0][0]: plugin for kind, plugin in plugins.items()}
    catalogue.find = lambda name: replace(find(name), plugin=wrong.get(name, find(name).plugin))  # type: ignore[assignment]

    def anything(parity: Any, layer: int) -> None:
        name = f"layers.{layer}.attention.core"
        known = observed(parity.case)[name]
        parity.compare(checks.Compared(name, known.title, known.shape, Limits(relative_error=1e9)))

    anything.pytestmark = test_mla.test_core_attention_output.pytestmark  # type: ignore[attr-defined]
    for module in (checks, limiting):
        vars(module)["IN_FP64"] = Limits(relative_error=1e-2)
    vars(test_mla)["test_core_attention_output"] = anything


def main(out: Path, commands: list[list[str]]) -> list[int]:
    """The exit codes of all; what the Nth prints is in `out`."""
    from tests.checks.commands import run

    codes = run(commands[:-1], out)
    blind({"rope": f"{HERE}:SomewhereElse", "router bias": f"{HERE}:Ineffective", "expert order": f"{HERE}:Raises"})
    (out / "last").mkdir()
    codes += run(commands[-1:], out / "last")
    (out / "last" / "0.txt").rename(out / f"{len(codes) - 1}.txt")
    return codes


if __name__ == "__main__":
    from tests.checks.commands import end_with_parent

    end_with_parent()
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), json.load(sys.stdin))))

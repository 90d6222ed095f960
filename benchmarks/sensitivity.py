"""The smallest error of each kind that a run still sees, end to end and with --isolated: halved until no check fails.

    python benchmarks/sensitivity.py [--precisions bf16,fp32]

One rank, preset tiny. Something is made larger by the factor 1 + e, inside the rank, by this file as a plugin
(`--plugin benchmarks/sensitivity.py:KIND=E`); printed is the smallest e = 2^-k at which a check fails, and which one is the
first. docs/decisions/0001-tolerance.md has the table.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from validation.case.case import Case

SMALLEST = 24
"""As far as e is halved: 2^-24 is less than a unit in the last place of fp32."""


@dataclass(frozen=True)
class Larger:
    """A plugin that makes one thing larger by a factor."""

    kind: str
    factor: float

    def configure(self, case: Case, config: Any) -> None:
        """What is no weight."""
        from validation.faults import inject

        attention = "megatron.core.transformer.multi_latent_attention"
        if self.kind == "softmax scale":
            inject.replace(attention, "_yarn_get_mscale", lambda sound: lambda *given: self.factor**0.5 * sound(*given))
        elif self.kind == "rotary angles":
            inject.replace(attention, "apply_rotary_pos_emb", self._turned)
        elif self.kind in GRADIENTS:
            inject.after_finalizing(self._enlarge_gradient)

    def _turned(self, sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, angles, *rest, **keywords: sound(tensor, angles * self.factor, *rest, **keywords)

    def loaded(self, case: Case, model: Any) -> None:
        """What is a weight, after the weights have been compared."""
        import torch

        if self.kind in WEIGHTS:
            with torch.no_grad():
                dict(model[0].named_parameters())[WEIGHTS[self.kind]].mul_(self.factor)

    def _enlarge_gradient(self, model: Any) -> None:
        names = dict(model[0].module.named_parameters())
        names[GRADIENTS[self.kind]].main_grad.mul_(self.factor)


WEIGHTS = {
    "input norm of layer 0": "decoder.layers.0.input_layernorm.weight",
    "one expert of layer 1": "decoder.layers.1.mlp.experts.local_experts.5.linear_fc2.weight",
    "output projection of layer 2": "decoder.layers.2.self_attention.linear_proj.weight",
    "router of layer 3": "decoder.layers.3.mlp.router.weight",
}
GRADIENTS = {
    "gradient of a router": "decoder.layers.1.mlp.router.weight",
    "gradient of an expert": "decoder.layers.1.mlp.experts.local_experts.5.linear_fc2.weight",
}
KINDS = ("softmax scale", "rotary angles", *WEIGHTS, *GRADIENTS)


def plugin(argument: str) -> Larger:
    """The plugin of `KIND=E`."""
    kind, _, size = argument.partition("=")
    return Larger(kind, 1 + float(size))


def smallest(runner: Any, case: Case, kind: str) -> tuple[float, str] | None:
    """The smallest e that is seen, and the first check that fails; None where 1 is not."""
    seen: tuple[float, str] | None = None
    low, high = 0, SMALLEST
    while low <= high:
        middle = (low + high) // 2
        first = first_failing(runner, case, f"{__file__}:{kind}={2.0**-middle}")
        if first is None:
            high = middle - 1
        else:
            seen, low = (2.0**-middle, first), middle + 1
    return seen


def first_failing(runner: Any, case: Case, name: str) -> str | None:
    """The first check that fails with a plugin. Raises SystemExit where the run broke."""
    from validation.checks.verdicts import verdicts

    runner.start([case], name)
    result = runner.result(case, name)
    if result.broken is not None:
        raise SystemExit(f"{name}: {result.broken.sentence}")
    failing = [verdict for verdict in verdicts(result) if verdict.status in ("fail", "error")]
    return min(failing, key=lambda verdict: verdict.place).title if failing else None


def main() -> None:
    """Every kind, end to end and isolated, in each precision."""
    from validation.run import launch
    from validation.run.command_line import add_options
    from validation.run.options import settings
    from validation.run.runner import Runner

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", default="bf16,fp32")
    given = parser.parse_args()
    launch.prepare("gloo")
    ours = argparse.ArgumentParser()
    add_options(ours.add_argument)
    print("| | precision | end to end | first check | isolated | first check |\n|---|---|---|---|---|---|")
    for precision in given.precisions.split(","):
        wanted = settings(ours.parse_args(["--precision", precision, "--jobs", "1"]), "")
        with tempfile.TemporaryDirectory() as home:
            runner = Runner(replace(wanted, home=Path(home)))
            for kind in KINDS:
                cells = []
                for case in (wanted.cases[0], replace(wanted.cases[0], isolated=True)):
                    found = smallest(runner, case, kind)
                    cells += ["not seen", ""] if found is None else [f"{found[0]:.1e}", found[1]]
                print(f"| {kind} | {precision} | {' | '.join(cells)} |", flush=True)
            runner.close()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)

"""A terminal that keeps its lines, and outcomes of checks that nobody has run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from validation.case.case import Case
from validation.case.probes import observed
from validation.checks.order import place
from validation.checks.outcome import Outcome
from validation.checks.progress import Progress
from validation.checks.terminal import Terminal
from validation.compare.verdict import Verdict

SECTIONS = {
    "attention": ("mla", "Multi-Latent Attention (MLA)"),
    "mlp": ("mlp", "Dense MLP"),
    "router": ("router", "Router"),
    "moe": ("moe", "Mixture of Experts (MoE)"),
    "layers": ("layers", "Embedding and Residual Stream"),
    "output": ("output", "Final Output"),
    "gradients": ("probe_gradients", "Probe Gradients"),
}


class _Writer:
    def __init__(self) -> None:
        self.text, self.colours = "", list[dict[str, bool]]()

    def write(self, text: str, flush: bool = False, **colours: bool) -> None:
        self.text += text
        self.colours += [colours] * text.count("\n")


class _Config:
    def __init__(self) -> None:
        self.writer = _Writer()

    def get_terminal_writer(self) -> _Writer:
        return self.writer


def terminal() -> tuple[Terminal, _Writer]:
    """A terminal, and what it has been told."""
    config: Any = _Config()
    return Terminal(config, Progress(lambda text: None, in_place=False)), config.writer


def section_of(kind: str) -> str:
    """The key of SECTIONS for a kind of probe."""
    if kind.startswith("moe.router"):
        return "router"
    first = kind.partition(".")[0]
    outputs = ("final_norm", "logits", "token_loss", "loss")
    return "output" if kind in outputs else first if first in SECTIONS and kind != "attention.residual" else "layers"


def outcome(section: str, title: str, status: str = "pass", **about: Any) -> Outcome:
    """A check of a module of ours."""
    module, heading = SECTIONS[section]
    properties = {"rel_error": repr(about.pop("error", 1e-15)), "tolerance": "1e-10"}
    verdict = Verdict(status, title, "Max diff: 0.000001, Avg diff: 0.000000", properties=properties, **about)
    return Outcome(status, title, verdict.line, heading, module, verdict=verdict)


def forward(case: Case, failing: Collection[str] = (), status: str = "fail") -> list[Outcome]:
    """The checks of the forward pass of a case, section by section; those of `failing` probes have another status."""
    found = [
        outcome(section_of(probe.kind), probe.title, status if name in failing else "pass", place=place(case, name))
        for name, probe in observed(case).items()
    ]
    return sorted(found, key=lambda one: [heading for _, heading in SECTIONS.values()].index(one.section))


def gradients(case: Case, failing: int = 0) -> list[Outcome]:
    """The checks of the gradients at probes, of which so many fail, from the back."""
    names = [name for name, probe in reversed(list(observed(case).items())) if probe.has_gradient]
    return [
        outcome(
            "gradients",
            f"{observed(case)[name].title} Gradient",
            "fail" if number < failing else "pass",
            place=place(case, f"probe_gradients/{name}"),
            error=1.0 if number < failing else 1e-15 * number,
        )
        for number, name in enumerate(names)
    ]

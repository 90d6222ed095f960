"""Where the catalogue runs: as its files say, or all of it with another implementation and precision. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from validation.case import preflight
from validation.case.case import ON_CPU, Case
from validation.case.errors import UsageError
from validation.faults.fault import Fault
from validation.machine import version
from validation.run.known import mended, refusal
from validation.run.options import of_small_steps
from validation.scorecard.run import ordered
from validation.scorecard.trial import Trial

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Lane:
    """An implementation, a precision and a transport for every case of the catalogue.

    Without a `precision` each fault keeps the one that its file names.
    """

    implementation: str = "local"
    precision: str = ""
    transport: str = "gloo"

    @property
    def name(self) -> str:
        """`te-bf16`; nothing of the catalogue's own."""
        return "" if self == OWN else "-".join(filter(None, (self.implementation, self.precision)))

    @property
    def on_cpu(self) -> bool:
        """Whether it needs no GPU."""
        return self.transport in ON_CPU

    @property
    def words(self) -> str:
        """What asks for it on the command line."""
        precision = f" --precision {self.precision}" if self.precision else ""
        return f"--implementation {self.implementation}{precision}{'' if self.on_cpu else ' --share-gpu 8'}"

    @property
    def data(self) -> Path:
        """The file in docs with what was measured."""
        return DOCS / f"scorecard{'-' if self.name else ''}{self.name}.json"

    def case(self, fault: Fault, layout: str) -> Case:
        """What a fault is put into here. Raises UsageError where there is no such case, or none that can have the fault."""
        own = fault.case(layout)
        if not fault.exists_in(found := version("megatron-core")):
            raise UsageError(f"megatron-core {found} has no sound case of it; {fault.since} and later have one")
        if self == OWN:
            return own
        if reason := next((why for what, why in fault.absent if what in (self.implementation, self.precision)), ""):
            raise UsageError(reason)
        precision = self.precision or own.precision
        training = of_small_steps(own.training, precision, given="optimizer.lr" in layout)
        case = replace(own, implementation=self.implementation, transport=self.transport, training=training, mended=())
        case = replace(case, precision=precision)
        preflight.check(case, max_ranks=8, gpus=case.layout.ranks, memory=None)
        if ended := refusal(case):
            raise UsageError(ended)
        return mended(case) if fault.without_bugs else case

    def refusal(self, fault: Fault, layout: str) -> str:
        """Why there is no case with the fault; empty where there is one."""
        try:
            self.case(fault, layout)
        except UsageError as error:
            return str(error)
        return ""

    def trials(self, faults: Iterable[Fault]) -> list[Trial]:
        """Those of these faults that a case can have, in all their layouts."""
        places = [(fault, layout) for fault in faults for layout in fault.layouts]
        return ordered([Trial(*place, self.case(*place)) for place in places if not self.refusal(*place)])


OWN = Lane()
"""What the files say: local, on the CPU, mostly in fp64."""
KEPT = (Lane("te", "bf16", "staged"),)
"""Lanes whose figures docs/scorecard.md shows."""

"""Where each rank of a layout stands, as megatron-core numbers ranks, and the chunks that it builds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from validation.candidate.checkpoint.tensors import Chunk
from validation.candidate.weights import Ranks
from validation.case.arrangement import parse
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.plural import many
from validation.case.training import Training


@dataclass(frozen=True)
class Arrangement:
    """A layout with the layers of each pipeline stage, where they are not even (`pp2+1-3`)."""

    layout: Layout
    stages: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str, model: Model) -> Arrangement:
        """The layout of that name, if the model can be laid out so. Raises UsageError."""
        layout, training, mtp = parse(text, Training())
        allowed = Training(stages=training.stages, vocab_multiple=training.vocab_multiple)
        if training != allowed or mtp is not None:
            raise UsageError(
                f"--layout {text}: a checkpoint is cut by degrees and stages alone, such as tp2pp2 or pp2+1-3, and +vocab128"
            )
        found = cls(layout, training.stages)
        found._check(text, model)
        return found

    def _check(self, text: str, model: Model) -> None:
        layout, layers = self.layout, model.num_hidden_layers
        parts = layout.pp * layout.vpp
        if self.stages and (len(self.stages) != layout.pp or sum(self.stages) != layers or layout.vpp > 1):
            raise UsageError(
                f"--layout {text}: the stages must be pp{layout.pp} numbers that add up to the {many(layers, 'layer')}"
            )
        if not self.stages and layers % parts:
            raise UsageError(
                f"--layout {text}: {many(parts, 'pipeline stage does', 'pipeline stages do')} not divide the "
                f"{many(layers, 'layer')}; give the layers of each as "
                f"pp{layout.pp}+{'-'.join(['N'] * layout.pp)}, or choose another pp"
            )
        if layout.vpp > 1 and layout.pp == 1:
            raise UsageError(f"--layout {text}: virtual stages need pipeline stages; give pp, too")
        if layout.ep > 1 and model.n_routed_experts % layout.ep:
            raise UsageError(f"--layout {text}: ep{layout.ep} does not divide the {many(model.n_routed_experts, 'expert')}")

    def chunks(self, model: Model, stage: int) -> list[Chunk]:
        """The chunks of a pipeline stage: one, or one for each virtual stage."""
        layout, layers = self.layout, model.num_hidden_layers
        if self.stages:
            start = sum(self.stages[:stage])
            ranges = [range(start, start + self.stages[stage])]
        else:
            size = layers // (layout.pp * layout.vpp)
            starts = [virtual * layers // layout.vpp + stage * size for virtual in range(layout.vpp)]
            ranges = [range(start, start + size) for start in starts]
        first, last = stage == 0, stage == layout.pp - 1
        return [
            Chunk(found, first=first and index == 0, last=last and index == len(ranges) - 1)
            for index, found in enumerate(ranges)
        ]

    def cuts(self) -> Iterator[tuple[Ranks, bool]]:
        """Every place that cuts parameters: those of dense tensors, and (True) those of experts."""
        layout = self.layout
        etp, ep = layout.expert_tp, layout.ep
        for tp in range(layout.tp):
            yield Ranks(tp=(tp, layout.tp), etp=(0, etp), ep=(0, ep)), False
        for rank in range(etp * ep):
            yield Ranks(tp=(0, layout.tp), etp=(rank % etp, etp), ep=(rank // etp, ep)), True

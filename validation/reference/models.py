"""The HuggingFace model of a case with its MTP layers, as floors, truth and steps run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.depth import FORWARD
from validation.reference import apart, keys, sums
from validation.reference import model as reference_model
from validation.reference import mtp as reference_mtp
from validation.reference.balancing import Balance
from validation.reference.batch import Batch
from validation.reference.checkpoint import Checkpoint
from validation.reference.record import Isolation, Recording, record_step
from validation.reference.routing import Routing, expert_bias, routing
from validation.reference.sources import Precision

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Models:
    """The HuggingFace model of a case with its MTP layers, and what watches its routers."""

    case: Case
    hf: DeepseekV3ForCausalLM
    mtp: MtpModel | None
    balance: Balance

    @classmethod
    def build(cls, case: Case, checkpoint: Checkpoint, precision: Precision, device: torch.device) -> Models:
        """Both with a checkpoint's weights. Raises UsageError for a checkpoint that is no good."""
        hf = reference_model.build(case.model, checkpoint, precision, device)
        mtp = reference_mtp.build(hf, case.model, checkpoint, precision, device)
        return cls(case, hf, mtp, Balance(reference_mtp.gates(hf, mtp, case.model), case))

    def record(self, batch: Batch, progress: Progress, recording: Recording | None = None, scale: float = 1.0) -> Recording:
        """One step's probes, into `recording` where one is given."""
        case, balance = self.case, self.balance

        def further(hidden: torch.Tensor, recording: Recording) -> torch.Tensor | float:
            added = 0.0 if self.mtp is None else reference_mtp.record(self.hf, self.mtp, case, batch, hidden, recording)
            for layer, value in balance.losses().items():
                recording.forward[f"layers.{layer}.moe.balancing"] = value.detach().cpu()
            return added + sums.shared(balance.total())

        with balance.watching(batch):
            return record_step(self.hf, case, batch, progress, further, recording, scale)

    def quietly(self, batch: Batch, recording: Recording, scale: float = 1.0) -> Recording:
        """The same without a word of progress."""
        return self.record(batch, lambda said: None, recording, scale)

    def record_experts(self, chosen: Routing, given: Isolation, recording: Recording, early: bool = False) -> None:
        """Every layer's experts, each by itself (validation.reference.apart)."""
        blocks = reference_mtp.blocks(self.hf, self.mtp)
        for layer in self.case.model.expert_blocks:
            experts, prefix = blocks[layer].mlp.experts, f"layers.{layer}.moe"
            apart.record(experts, prefix, apart.choice(chosen, layer, experts.down_proj.device), given, recording, early)

    def routing(self, recording: Recording, checkpoint: Checkpoint) -> Routing:
        """What the routers have chosen, and by how much."""
        model = self.case.model
        biases = {layer: expert_bias(checkpoint, layer, model) for layer in model.expert_blocks}
        return routing(recording.forward, biases, model) | keys.chosen_keys(recording.forward, model)

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Every parameter, those of MTP layers at the end."""
        own = reference_mtp.named_parameters(self.mtp, self.case.model) if self.mtp else ()
        return [*self.hf.named_parameters(), *own]

    def gradients(self, in_place: bool = False) -> dict[str, torch.Tensor]:
        """The gradient of every trained parameter, by the checkpoint's names; none without a backward pass.

        On the host, or where they are with `in_place`.
        """
        if self.case.upto == FORWARD:
            return {}
        found = reference_model.gradients(self.named_parameters(), self.case.model)
        return {name: gradient if in_place else gradient.cpu() for name, gradient in found.items()}

    def forget_gradients(self) -> None:
        """Before another run."""
        self.hf.zero_grad()
        if self.mtp is not None:
            self.mtp.zero_grad()

"""What the HuggingFace model says of the same tokens, in fp64 or in a precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.folder import model_from_folder
from validation.case.model import Model
from validation.compare.precision import DTYPES, computing_in
from validation.reference import model as reference_model
from validation.reference.as_read import check
from validation.reference.batch import Batch
from validation.reference.checkpoint import Checkpoint, verify
from validation.reference.floor import Variant
from validation.reference.record import Unrecorded, View, hidden_states, layer_hooks
from validation.reference.routing import Routing, expert_bias
from validation.reference.sources import Precision
from validation.rollout.dump import Said

CPU = torch.device("cpu")
_ROWS = 512
"""Positions whose logits are held at a time."""


@dataclass
class Routers:
    """What the routers did with one sequence, by layer: scores [sequence, experts], and their own choice, a map of them."""

    scores: dict[int, torch.Tensor] = field(default_factory=dict)
    chosen: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class HuggingFace:
    """The model of a folder, ready to compute in one precision. `biases` are what its routers add to choose, by layer."""

    model: Model
    hf: DeepseekV3ForCausalLM
    precision: str
    biases: dict[int, torch.Tensor]
    device: torch.device = CPU

    @classmethod
    def open(cls, folder: Path, precision: str, weights: str, device: torch.device = CPU) -> HuggingFace:
        """The model in `precision`, its weights rounded to that of `weights` first. Raises UsageError for a bad folder."""
        model = without_mtp(model_from_folder(folder))
        check(model, folder)
        with Checkpoint.open(folder, model) as checkpoint:
            verify(checkpoint)
            with computing_in(precision):
                hf = reference_model.build(model, checkpoint, Precision(DTYPES[precision], DTYPES[weights]), device)
            biases = {layer: expert_bias(checkpoint, layer, model) for layer in model.moe_layers}
        return cls(model, hf, precision, biases, device)

    @torch.no_grad()
    def hidden(
        self,
        sequences: Sequence[Said],
        variant: Variant | None = None,
        routings: Sequence[Routing | None] = (),
        seen: Sequence[Routers] = (),
    ) -> Iterator[torch.Tensor]:
        """What the output head is given of each sequence, [sequence, hidden], one sequence after the other.

        Routers go on with the experts of `routings`, if these are given. `seen` gets what they would have chosen themselves.
        """
        for number, one in enumerate(sequences):
            batch = batch_of(one, self.device)
            with (
                computing_in(self.precision),
                reference_model.varied(self.hf, variant or Variant()),
                self._routers(batch, routings[number] if routings else None, seen[number] if seen else None),
            ):
                found = hidden_states(self.hf, batch)[0]
            yield found

    @torch.no_grad()
    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits of some positions, [positions, vocabulary], float32, or float64 in fp64."""
        with computing_in(self.precision):
            found: torch.Tensor = self.hf.lm_head(hidden).float()
        return found

    def logits(self, one: Said) -> torch.Tensor:
        """The logits at every position of a sequence, [sequence, vocabulary]."""
        (found,) = [self.head(hidden).cpu() for hidden in self.hidden([one])]
        return found

    def logprobs(self, hidden: torch.Tensor, tokens: Sequence[int], temperature: float) -> torch.Tensor:
        """The log-probability of each token given those before it, [sequence], float64; NaN for the first.

        Of so few positions at a time that a large vocabulary takes little room.
        """
        found = torch.full((len(tokens),), float("nan"), dtype=torch.float64)
        ids = torch.tensor(tokens, device=hidden.device)
        for start in range(0, len(tokens) - 1, _ROWS):
            stop = min(start + _ROWS, len(tokens) - 1)
            logits = self.head(hidden[start:stop])
            found[start + 1 : stop + 1] = of_next(logits, ids[start + 1 : stop + 1], temperature).cpu()
        return found

    @contextmanager
    def _routers(self, batch: Batch, routing: Routing | None, seen: Routers | None) -> Iterator[None]:
        if routing is None and seen is None:
            yield
            return
        recording = Seen(routing, seen or Routers())
        layers = enumerate(self.hf.model.layers)
        hooks = [hook for index, layer in layers for hook in layer_hooks(layer, self.model, index, batch, recording)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class Seen(Unrecorded):
    """Keeps what routers do and nothing else."""

    def __init__(self, routing: Routing | None, seen: Routers) -> None:
        super().__init__(routing)
        self._seen = seen

    def keep(self, name: str, tensor: torch.Tensor, view: View = _same, back: View | None = None) -> torch.Tensor:
        """The tensor itself; a router's scores are kept."""
        if name.endswith(".router.scores"):
            self._seen.scores[_layer(name)] = view(tensor)[0].to(CPU, copy=True)
        return tensor

    def keep_value(self, name: str, tensor: torch.Tensor) -> None:
        """A router's own choice is kept."""
        if name.endswith(".router.experts"):
            self._seen.chosen[_layer(name)] = tensor[0].to(CPU, copy=True)


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def without_mtp(model: Model) -> Model:
    """The model without its layers of multi-token prediction, which have no part in a token's log-probability."""
    return replace(model, num_nextn_predict_layers=0)


def of_next(logits: torch.Tensor, following: torch.Tensor, temperature: float) -> torch.Tensor:
    """The log-probability, float64, of the token that follows at each position, from logits [positions, vocabulary]."""
    return torch.log_softmax(logits / temperature, dim=-1).gather(1, following[:, None])[:, 0].double()


def of_tokens(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities of tokens, [sequence], from logits [sequence, vocabulary]; NaN for the first token."""
    found = torch.full((len(tokens),), float("nan"), dtype=torch.float64)
    found[1:] = of_next(logits[:-1], tokens[1:], temperature)
    return found


def batch_of(one: Said, device: torch.device) -> Batch:
    """A sequence by itself."""
    tokens = torch.tensor([one.tokens], device=device)
    return Batch(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool))


def replayed(one: Said, model: Model) -> Routing | None:
    """The experts that the engine chose for a sequence, as HuggingFace's routers can go on with them; None if nobody says."""
    if one.routed is None:
        return None
    rows = [*one.routed, *(one.routed[-1:] if len(one.routed) < len(one.tokens) else ())]
    whole = torch.tensor(rows)
    return {f"{layer}/experts": whole[None, :, at] for at, layer in enumerate(model.moe_layers)}


def every(hf: HuggingFace, sequences: Sequence[Said], temperature: float, **how: Any) -> list[torch.Tensor]:
    """The log-probabilities of every sequence; `how` is that of HuggingFace.hidden."""
    each = zip(sequences, hf.hidden(sequences, **how), strict=True)
    return [hf.logprobs(hidden, one.tokens, temperature) for one, hidden in each]

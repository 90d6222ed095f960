"""Optimizer steps on the HuggingFace model: torch's optimizer, clipping, and DeepSeek-V3's update of the expert bias."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.optimizers import ADAM, Rule, counts_zeros
from validation.case.schedule import DECOUPLED, Schedule
from validation.case.settings import BASE
from validation.case.steps import BIAS, FACTOR, MASTER, NORM, RATES, VALUE, WEIGHED, ZEROS, trained
from validation.compare.precision import DTYPES, as_stored
from validation.reference import model as reference_model
from validation.reference import mtp as reference_mtp
from validation.reference import schedule as formulas
from validation.reference.balancing import Balance
from validation.reference.batch import Batch, real_in
from validation.reference.record import Unrecorded, hidden_states, record_loss

MOST = 64.0
"""What they are multiplied with at most: the moments that a step leaves still show those of the step before."""


class Loads:
    """How many tokens each expert of each layer gets in a step, from the routers' choices: [experts] by layer.

    `gates` are the routers by layer. An MTP layer's filler is a token, too, as in megatron-core (validation.reference.mtp).
    """

    def __init__(self, gates: Mapping[int, Any], case: Case) -> None:
        self.counts: dict[int, torch.Tensor] = {}
        self._gates = gates
        self._experts, self._biased = case.model.n_routed_experts, case.model.sigmoid
        self._rate = case.training.adam.bias_update_rate
        self._batch: Batch | None = None
        self._model = case.model

    @contextmanager
    def counting(self, batch: Batch) -> Iterator[None]:
        """Count what the routers choose for the batch within it, its padding aside; starts from nothing."""
        self.counts, self._batch = {}, batch
        hooks = [gate.register_forward_hook(self._count(layer)) for layer, gate in self._gates.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(self, layer: int) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            _, _, experts = output
            real = None if self._batch is None else real_in(layer, self._batch, self._model)
            counted = experts if real is None else experts[real.flatten()]
            self.counts[layer] = torch.bincount(counted.flatten(), minlength=self._experts)

        return hook

    def move_biases(self) -> None:
        """An expert with fewer tokens than the average gains, one with more loses the update rate.

        DeepSeek-V3 report (arXiv 2412.19437), section 2.1.2; every token counts that is no padding, whatever the loss mask
        says of it.
        """
        for layer, counts in self.counts.items() if self._biased else ():
            bias = self._gates[layer].e_score_correction_bias
            with as_stored():
                moved = bias + self._rate * torch.sign(counts.double().mean() - counts)
                bias.copy_(moved.to(torch.float32))


class Steps:
    """Takes the case's optimizer steps and keeps what each leaves, by the keys of validation.case.steps.

    In bf16 and fp16 the optimizer steps masters, which are float32, and float64 in a truth. The model goes on with what the
    precision makes of them. `true` is what the truth's steps have kept; None if these are the truth's. What is kept lies in
    host memory, or where it was with `in_place`.
    """

    def __init__(
        self,
        hf: DeepseekV3ForCausalLM,
        mtp: MtpModel | None,
        case: Case,
        true: Mapping[str, torch.Tensor] | None = None,
        in_place: bool = False,
    ) -> None:
        self.kept: dict[str, torch.Tensor] = {}
        self._true, self._in_place = true, in_place
        self.norms: dict[str, float] = {}
        """Of each parameter's gradient before the clipping, by the step and its name in the model."""
        self.keep: Callable[[str, torch.Tensor], None] | None = None
        """What is done with each tensor that a step leaves, by its key; it is copied to `kept` if this is None."""
        self._hf, self._mtp, self.case = hf, mtp, case
        self._gates = reference_mtp.gates(hf, mtp, case.model)
        self.loads, self.balance = Loads(self._gates, case), Balance(self._gates, case)
        own = reference_mtp.named_parameters(mtp, case.model) if mtp else ()
        self._named = [*hf.named_parameters(), *own]
        self._own = [_master(of) for _, of in self._named] if case.has_masters else [of for _, of in self._named]
        self._schedule, self._rule = Schedule.of(case.training), Rule.of(case.training)
        self._clip_norm = case.training.adam.clip_norm
        self._optimizer = _optimizer(case, list(self._groups()))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a router."""
        return tuple(self._gates)

    def _groups(self) -> Iterator[dict[str, Any]]:
        """Of what decays and what does not, with the common rate and with one of its own; none that is empty."""
        for decays, decoupled in itertools.product((True, False), repeat=2):
            named = zip((name for name, _ in self._named), self._own, strict=True)
            members = [of for name, of in named if (of.dim() > 1, name in DECOUPLED) == (decays, decoupled)]
            if members:
                yield {"params": members, "decays": decays, "decoupled": decoupled}

    def _set_rates(self, step: int) -> None:
        """What the schedule says of a step, counted from 1."""
        schedule = self._schedule
        for group in self._optimizer.param_groups:
            own = group["decoupled"] and schedule.decoupled is not None
            group["lr"] = formulas.learning_rate(schedule, step - 1, decoupled=own)
            group["weight_decay"] = formulas.weight_decay(schedule, step - 1) if group["decays"] else 0.0
        if not schedule.is_steady:
            rates = [formulas.rates(schedule, parameter, step - 1) for parameter in trained(self.case)]
            for kind, numbers in zip(RATES, zip(*rates, strict=True), strict=True):
                self.kept[f"{step}/{kind}"] = torch.tensor(numbers, dtype=torch.float64)

    @torch.no_grad()
    def take(self, step: int, scale: float = 1.0) -> None:
        """One step, counted from 1, with the loads that are there and the gradients, which are `scale` times too large."""
        self.loads.move_biases()
        self._set_rates(step)
        self._take_gradients(scale)
        factor = self._weigh(step)
        each = zip((name for name, _ in self._named), self._own, strict=True)
        self.norms |= {f"{step}/{name}": float(torch.linalg.vector_norm(own.grad, dtype=torch.float64)) for name, own in each}
        norm = torch.nn.utils.clip_grad_norm_(self._own, self._clip_norm)
        if self._clip_norm == BASE["optimizer.clip_grad"] and not norm / factor > self._clip_norm:
            raise ValueError(f"gradient norm {float(norm)} is not above {self._clip_norm}: clipping would not be tested")
        self._count_zeros(step)
        self._optimizer.step()
        for (_, parameter), own in zip(self._named, self._own, strict=True):
            if own is not parameter:
                parameter.copy_(own.to(DTYPES[self.case.precision]))
            parameter.grad = own.grad = None
        keep = self.keep or self._store
        for key, value in self._left(step, norm):
            keep(key, value)

    def _weigh(self, step: int) -> float:
        """Multiply the gradients of step 2 with a power of two, which rounds nothing; returns it, and 1 for other steps."""
        if step != WEIGHED:
            return 1.0
        key = f"{step}/{FACTOR}"
        if self._true is None:
            norm = math.hypot(*(float(torch.linalg.vector_norm(own.grad)) for own in self._own))
            before = float(self.kept[f"{step - 1}/{NORM}"])
            self.kept[key] = torch.tensor(across(self._clip_norm, before, norm), dtype=torch.float64)
        else:
            self.kept[key] = self._true[key]
        factor = float(self.kept[key])
        for gradient in (own.grad for own in self._own if own.grad is not None):
            gradient.mul_(factor)
        return factor

    def _count_zeros(self, step: int) -> None:
        """Of all gradients together, behind the clipping, as megatron-core counts them."""
        if counts_zeros(self.case.training):
            zeros = sum(int((own.grad == 0).sum()) if own.grad is not None else own.numel() for own in self._own)
            self.kept[f"{step}/{ZEROS}"] = torch.tensor(zeros, dtype=torch.float64)

    def _take_gradients(self, scale: float) -> None:
        """To what the optimizer steps, in its dtype, without the scale: other tensors than those that are compared."""
        for (_, parameter), own in zip(self._named, self._own, strict=True):
            # What has no gradient, as an indexer without its loss, has one of zeros in Megatron-Core: its weights decay.
            given = torch.zeros_like(own) if parameter.grad is None else parameter.grad
            own.grad = given.to(own.dtype) / scale

    def values(self) -> dict[str, torch.Tensor]:
        """What the model computes with, in place, by the checkpoint's names, experts stacked."""
        return self._by_name(self._named, _itself)

    def gradients(self) -> dict[str, torch.Tensor]:
        """What is there of them, in the same way."""
        return self._by_name([(name, of) for name, of in self._named if of.grad is not None], lambda of: of.grad)

    @torch.no_grad()
    def move(self, name: str, at: int, by: float) -> None:
        """Add `by` to what the optimizer steps of a parameter, at a place of the flattened tensor, and go on with that."""
        owns = zip((name for name, _ in self._named), self._own, strict=True)
        own, value = self._by_name(owns, _itself)[name], self.values()[name]
        place = torch.unravel_index(torch.tensor(at), own.shape)
        own[place] += by
        if own.data_ptr() != value.data_ptr():
            value[place] = own[place].to(DTYPES[self.case.precision]).to(value)

    @torch.no_grad()
    def set_values(self, kept: Mapping[str, torch.Tensor], step: int) -> None:
        """What the model computes with, biases included, as `kept` has it behind a step; without gradients."""
        self._set(VALUE, [parameter for _, parameter in self._named], kept, step)
        for layer, gate in self._gates.items() if self.case.model.sigmoid else ():
            gate.e_score_correction_bias.copy_(kept[f"{step}/{VALUE}/model.layers.{layer}.{BIAS}"])
        for _, parameter in self._named:
            parameter.grad = None

    @torch.no_grad()
    def go_back(self, kept: Mapping[str, torch.Tensor], step: int) -> None:
        """To what `kept` has behind a step of AdamW: values, masters and moments."""
        self.set_values(kept, step)
        if self.case.has_masters:
            self._set(MASTER, self._own, kept, step)
        for own in self._own:
            moments = {kind: torch.zeros_like(own) for kind in self._rule.moments}
            self._optimizer.state[own] = {"step": torch.tensor(float(step)), **moments}
        for kind in self._rule.moments:
            self._set(kind, [self._optimizer.state[own][kind] for own in self._own], kept, step)

    def _set(self, kind: str, members: list[Any], kept: Mapping[str, torch.Tensor], step: int) -> None:
        named = zip((name for name, _ in self._named), members, strict=True)
        for name, value in self._by_name(named, _itself).items():
            value.copy_(kept[f"{step}/{kind}/{name}"])

    @staticmethod
    def _by_name(named: Iterable[tuple[str, Any]], of: Callable[[Any], Any]) -> dict[str, torch.Tensor]:
        views = (reference_model.by_checkpoint_name(name, of(one).detach()) for name, one in named)
        return {name: view for found in views for name, view in found.items()}

    def forward_and_backward(self, batch: Batch) -> None:
        """The gradients of a further batch."""
        hf, case, nothing = self._hf, self.case, Unrecorded()
        with self.loads.counting(batch), self.balance.watching(batch):
            hidden = hidden_states(hf, batch)
            total = record_loss(hf, case, batch, hidden, nothing)
            if self._mtp is not None:
                total = total + reference_mtp.record(hf, self._mtp, case, batch, hidden, nothing)
        torch.autograd.backward(total + self.balance.total())

    def _left(self, step: int, norm: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """What a step has left, in place where that can be, by its key."""
        model = self.case.model
        yield f"{step}/{NORM}", norm.detach()
        owns = [(name, own) for (name, _), own in zip(self._named, self._own, strict=True)]
        kinds = {kind: (owns, lambda own, kind=kind: self._optimizer.state[own][kind]) for kind in self._rule.moments}
        masters = {MASTER: (owns, _itself)} if self.case.has_masters else {}
        for kind, (named, of) in {**kinds, **masters, VALUE: (self._named, _itself)}.items():
            values = reference_model.of_parameters(named, model, of)
            yield from ((f"{step}/{kind}/{name}", value) for name, value in values.items())
        for layer, gate in self._gates.items() if model.sigmoid else ():
            with as_stored():
                bias = gate.e_score_correction_bias.to(torch.float32, copy=True)
            yield f"{step}/{VALUE}/model.layers.{layer}.{BIAS}", bias

    def _store(self, key: str, value: torch.Tensor) -> None:
        self.kept[key] = value.to(value.device if self._in_place else "cpu", copy=True)


def across(limit: float, first: float, second: float) -> float:
    """The power of two that takes the norm `second` to the other side of the limit than the norm `first` of the step before.

    If `first` was clipped, it is then half of the limit at most, else twice the limit at least: a clip that is never on or
    always on is off by two in one of the steps. 1 if the limit is so large that the second step would hide the first.
    """
    if not second:
        return 1.0
    if first > limit:
        return min(1.0, 2.0 ** math.floor(math.log2(limit / 2 / second)))
    factor = max(1.0, 2.0 ** math.ceil(math.log2(2 * limit / second)))
    return factor if factor <= MOST else 1.0


def _optimizer(case: Case, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """PyTorch's own, whose rates are set before each step."""
    adam, rule = case.training.adam, Rule.of(case.training)
    common: dict[str, Any] = {"lr": adam.learning_rate, "weight_decay": adam.weight_decay}
    if rule.kind != ADAM:
        return torch.optim.SGD(groups, momentum=rule.momentum, **common)
    made = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
    return made(groups, betas=(adam.beta1, adam.beta2), eps=adam.epsilon, **common)


def _itself(parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """A copy that holds what the parameter's dtype would round away."""
    return torch.nn.Parameter(parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True))

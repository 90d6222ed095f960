"""What a rank compares of its parameters: their gradients, and what an optimizer step makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from validation.candidate.experts import ExpertsOf
from validation.candidate.load import GRADIENTS, Held, together
from validation.candidate.optimizer import Optimizer
from validation.candidate.recorder import Recorder
from validation.candidate.weights import Holding
from validation.case.case import Case
from validation.case.loss_scale import scales
from validation.case.optimizers import ADAM, FIRST, SECOND, Rule
from validation.case.parameters import EXPERTS
from validation.case.plural import many
from validation.case.schedule import Schedule
from validation.case.steps import GRADIENT, LOSS_SCALE, MASTER, NORM, RATES, STEPS, VALUE, ZEROS, takes_gradients, trained
from validation.compare.piece import slices
from validation.reference.store import Reference


def declared(case: Case, facts: dict[str, Any]) -> dict[str, Any]:
    """The reference's facts, but for the dtypes that settings of the candidate change.

    Those of activations are any if the residual stream is in float32, and those of the router's numbers what it computes in.
    """
    if "dtypes" not in facts:
        return facts
    model, dtypes = case.training.effective("model"), facts["dtypes"]
    if model.get("fp32_residual_connection"):
        dtypes = {name: dtype for name, dtype in dtypes.items() if name.startswith((GRADIENTS, STEPS))}
    if model.get("moe_router_dtype") == "fp64":
        dtypes = {name: "float64" if name.endswith(_OF_ROUTER) else dtype for name, dtype in dtypes.items()}
    unrounded = {name for name, dtype in dtypes.items() if dtype == "float32" and _holds_more_than_half(case, name)}
    return {**facts, "dtypes": dtypes, "unrounded": unrounded}


def _holds_more_than_half(case: Case, name: str) -> bool:
    """Whether a tensor in float32 is the router's, of losses, or Adam's and holds numbers of half precision for no gradients.

    A first moment may be one if it takes a half or a quarter of a gradient in bfloat16.
    """
    if not name.startswith(STEPS):
        return name.endswith((*_OF_ROUTER, ".moe.router.scores", "token_loss"))
    kind, optimizer = name.split("/")[2], case.training.effective("optimizer")
    halves = kind == FIRST and math.frexp(1 - case.training.adam.beta1)[0] == _POWER_OF_TWO
    settled = str(optimizer.get(_DTYPES.get(kind, ""), "fp32")).removeprefix("torch.")
    return Rule.of(case.training).kind == ADAM and kind in _DTYPES and settled in ("fp32", "float32") and not halves


_DTYPES = {FIRST: "exp_avg_dtype", SECOND: "exp_avg_sq_dtype", MASTER: "main_params_dtype"}
"""What sets the dtype of something that Adam keeps."""
_POWER_OF_TWO = 0.5
"""The mantissa of a power of two."""
_OF_ROUTER = (".moe.router.logits", ".moe.router.weights")
"""What a router has in the dtype in which it computes. Scores are made in float32."""


def compare_gradients(
    held: Held, stored: Reference, recorder: Recorder, experts: ExpertsOf | None = None, scale: float = 1.0
) -> None:
    """What finalize_model_grads has left in each parameter's main_grad, which is `scale` times too large.

    `experts` makes what the reference has of experts where it is not stored.
    """
    found = []
    for tensor, parts in held:
        gradient = getattr(tensor, "main_grad", None)
        for part in parts:
            if not part.parameter.trained:
                continue
            if gradient is None:
                name = f"{GRADIENTS}{part.parameter.name}"
                recorder.problem(name, f"{part.megatron} has no main_grad after finalize_model_grads")
            else:
                found.append((part, part.of(gradient) / scale if scale != 1.0 else part.of(gradient)))
    for parameter, box, value in together(found):
        name = f"{GRADIENTS}{parameter.name}"
        if experts is not None and EXPERTS in parameter.name:
            recorder.compare_with(name, value, box, experts.gradient(parameter, box))
        else:
            recorder.compare(name, value, box, stored.gradients, key=parameter.name)


def compare_rates(case: Case, step: int, optimizer: Optimizer, held: Held, stored: Reference, recorder: Recorder) -> None:
    """What the step to come, counted from 1, multiplies with, for each parameter of which this rank steps something."""
    if Schedule.of(case.training).is_steady:
        return
    found = {part.parameter: optimizer.rates(tensor) for tensor, parts in held for part in parts}
    for index, parameter in enumerate(trained(case)):
        for kind, rate in zip(RATES, found.get(parameter) or (), strict=False):
            key, value = f"{step}/{kind}", torch.tensor([rate], dtype=torch.float64)
            recorder.compare(STEPS + key, value, ((index, index + 1),), stored.steps, key=key)


def compare_loss_scale(case: Case, step: int, optimizer: Optimizer, recorder: Recorder) -> None:
    """What the loss of a step, counted from 1, was multiplied with, if that is no more than 1."""
    if case.precision != "fp16":
        return
    found, expected = (torch.tensor(scale, dtype=torch.float64) for scale in (optimizer.loss_scale, scales(case)[step - 1]))
    recorder.compare_with(f"{STEPS}{step}/{LOSS_SCALE}", found, (), expected)


def first_moments(case: Case, step: int, optimizer: Optimizer, held: Held) -> list[torch.Tensor | None]:
    """Copies of what the optimizer keeps of each parameter before a step, if its gradients follow from that; else none.

    All ranks must ask.
    """
    if not takes_gradients(case, step):
        return [None] * len(held)
    return [None if one is None else one.clone() for one in optimizer.first_moments([tensor for tensor, _ in held])]


def compare_step(
    case: Case,
    step: int,
    norm: torch.Tensor,
    optimizer: Optimizer,
    before: Sequence[torch.Tensor | None],
    held: Held,
    stored: Reference,
    recorder: Recorder,
) -> None:
    """The norm of all gradients and the zeros in them, each parameter's moments and master, after a step counted from 1.

    With copies of the first moments `before` it, which are written over, the gradient that the step has taken of each.
    """
    zeros = {} if optimizer.zeros is None else {ZEROS: torch.tensor(optimizer.zeros, dtype=torch.float64)}
    for kind, number in {NORM: norm, **zeros}.items():
        recorder.compare(f"{STEPS}{step}/{kind}", number, (), stored.steps, key=f"{step}/{kind}")
    states = optimizer.states([tensor for tensor, _ in held])
    beta = case.training.adam.beta1
    taken = [
        (*one, {GRADIENT: first.mul_(-beta).add_(state[FIRST]).div_(1 - beta)} if first is not None and FIRST in state else {})
        for one, state, first in zip(held, states, before, strict=True)
    ]
    _compare_kinds(step, taken, stored, recorder, beta)
    _compare_kinds(step, [(*one, state) for one, state in zip(held, states, strict=True)], stored, recorder)


def compare_written(step: int, optimizer: Optimizer, held: Held, recorder: Recorder) -> None:
    """Each weight that a step has written must be its master, rounded: what a step moves may be less than a limit.

    All ranks must ask.
    """
    for (tensor, parts), state in zip(held, optimizer.states([tensor for tensor, _ in held]), strict=True):
        if MASTER in state:
            _compare_with_master(step, tensor.detach(), state[MASTER], parts, recorder)


def _compare_with_master(
    step: int, tensor: torch.Tensor, master: torch.Tensor, parts: Sequence[Holding], recorder: Recorder
) -> None:
    """Of two numbers that are as near to the master either will do: kernels differ in what they make of a half."""
    off, least = ((number.to(master.dtype) - master).abs() for number in (tensor, master.to(tensor.dtype)))
    farther = off > least
    if not farther.any():
        return
    dtype = str(tensor.dtype).removeprefix("torch.")
    for part in parts:
        if count := int(part.of(farther).count_nonzero()):
            said = f"{many(count, 'element is', 'elements are')} not what {dtype} makes of the master"
            recorder.problem(f"{STEPS}{step}/{VALUE}/{part.parameter.name}", said)


def compare_values(step: int, held: Held, stored: Reference, recorder: Recorder, *, trained: bool) -> None:
    """What the step has made of each parameter that is trained, or of the experts' biases, which no optimizer moves."""
    chosen = [(tensor, parts) for tensor, parts in held if any(part.parameter.trained == trained for part in parts)]
    _compare_kinds(step, [(tensor, parts, {VALUE: tensor.detach()}) for tensor, parts in chosen], stored, recorder)


def _compare_kinds(
    step: int,
    kinds: Sequence[tuple[torch.Tensor, Sequence[Holding], Mapping[str, torch.Tensor]]],
    stored: Reference,
    recorder: Recorder,
    beta: float = 0.0,
) -> None:
    """`beta` is what a step keeps of the first moment, of which GRADIENT is made on either side."""
    for kind in dict.fromkeys(kind for _, _, found in kinds for kind in found):
        parts = [(part, part.of(found[kind])) for _, held_parts, found in kinds if kind in found for part in held_parts]
        for parameter, box, value in together(parts):
            key = f"{step}/{kind}/{parameter.name}"
            if kind != GRADIENT:
                recorder.compare(STEPS + key, value, box, stored.steps, key=key)
                continue
            names = (f"{number}/{FIRST}/{parameter.name}" for number in (step - 1, step))
            before, behind = (recorder.file(stored.steps).read(name, slices(box)).double() for name in names)
            recorder.compare_with(STEPS + key, value, box, (behind - beta * before) / (1 - beta))

"""What is compared of each optimizer step: its rates, every parameter, its two moments, and the norm of all gradients."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from validation.case.case import Case
from validation.case.optimizers import ADAM, FIRST, Rule, counts_zeros
from validation.case.parameters import Parameter, parameters
from validation.case.schedule import Schedule

STEPS = "steps/"
"""What precedes the name of everything that is compared after a step: `steps/1/value/model.norm.weight`."""
UNREDUCED = "unreduced/"
"""What precedes a parameter's name for the sum of the ranks' gradients before megatron-core's own reduction."""
VALUE, NORM = "value", "gradient_norm"
ZEROS = "zeros"
"""How many elements of the clipped gradients are 0; compared if optimizer.log_num_zeros_in_grad counts them."""
BIAS = "mlp.gate.e_score_correction_bias"
"""Of a layer with experts: the parameter that a step moves by the experts' loads, behind the layer's name."""
MASTER = "master"
"""Of bf16 and fp16: what the optimizer steps instead of the parameter, in float32."""
GRADIENT = "gradient"
"""Of a step behind the first: the clipped gradient that the optimizer takes, from what it has added to the first moment."""
LOSS_SCALE = "loss_scale"
"""Of fp16: what the loss of a step is multiplied with."""
WEIGHED = 2
"""The step whose gradients both sides multiply, so that clipping is on in one step and off in another."""
FACTOR = "factor"
"""Of that step: what they are multiplied with, a power of two."""
RATES = {"learning_rates": "Learning Rates", "weight_decays": "Weight Decays"}
"""What a step multiplies with, a number for each trained parameter; compared if a schedule changes them."""


@dataclass(frozen=True)
class Stepped:
    """Something that is compared after a step, counted from 1. `key` is its name in the reference's file."""

    step: int
    key: str
    title: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its name in the ranks' reports."""
        return STEPS + self.key


def left_bias(step: int, layer: int) -> str:
    """The name of the expert bias of a layer that a step, counted from 1, leaves, in the ranks' reports."""
    return f"{STEPS}{step}/{VALUE}/model.layers.{layer}.{BIAS}"


def made_of(name: str) -> str:
    """The name of what a step makes a value or a first moment of: a master, a gradient. Other names as they are."""
    found = re.sub(f"^({STEPS}[0-9]+)/{VALUE}/", rf"\1/{MASTER}/", name)
    return re.sub(f"^({STEPS}[0-9]+)/{FIRST}/", rf"\1/{GRADIENT}/", found)


def trained(case: Case) -> tuple[Parameter, ...]:
    """The parameters that an optimizer moves, in the order in which RATES have a number for each."""
    return tuple(parameter for parameter in parameters(case.model).values() if parameter.trained)


def takes_gradients(case: Case, step: int) -> bool:
    """Whether the gradients that a step, counted from 1, takes are compared by themselves.

    Those of step 1 are the backward pass's. In fp64 no rounding hides a gradient in a moment, and SGD's momentum is made of
    the gradient itself. A moment that is rounded to less than float32 does not tell what was added to it.
    """
    adam = case.training.effective("optimizer")
    whole = str(adam.get(f"{FIRST}_dtype", "fp32")).removeprefix("torch.") in ("fp32", "float32")
    return step > 1 and case.precision != "fp64" and Rule.of(case.training).kind == ADAM and whole


@functools.cache
def stepped(case: Case) -> Mapping[str, Stepped]:
    """Everything that is compared after the case's steps, by key, in the order in which a step makes it.

    The expert bias is moved by the step and has no moments.
    """
    found: list[Stepped] = []
    rates, zeros = {} if Schedule.of(case.training).is_steady else RATES, counts_zeros(case.training)
    moments = Rule.of(case.training).moments
    for step in range(1, case.training.steps + 1):
        found += [Stepped(step, f"{step}/{kind}", f"Step {step} {what}", (len(trained(case)),)) for kind, what in rates.items()]
        found += [Stepped(step, f"{step}/{LOSS_SCALE}", f"Step {step} Loss Scale", ())] if case.precision == "fp16" else []
        found.append(Stepped(step, f"{step}/{NORM}", f"Step {step} Gradient Norm", ()))
        found += [Stepped(step, f"{step}/{ZEROS}", f"Step {step} Zeros In Gradients", ())] if zeros else []
        for parameter in parameters(case.model).values():
            for kind, title in _of_parameter(case, parameter, moments, step).items():
                found.append(Stepped(step, f"{step}/{kind}/{parameter.name}", f"Step {step} {title}", parameter.shape))
    return MappingProxyType({one.key: one for one in found})


def _of_parameter(case: Case, parameter: Parameter, moments: Mapping[str, str], step: int) -> dict[str, str]:
    """The kinds of what a step leaves of a parameter, in the order in which it makes them, with their titles.

    `moments` are those that the case's optimizer keeps.
    """
    if not parameter.trained:
        return {VALUE: parameter.title}
    masters = {MASTER: f"Master {parameter.title}"} if case.has_masters else {}
    kept = {kind: f"{parameter.title} {what}" for kind, what in moments.items()}
    taken = {GRADIENT: f"{parameter.title} Gradient"} if takes_gradients(case, step) else {}
    return {**taken, **kept, **masters, VALUE: parameter.title}

"""The random weights of a preset, made so that real faults show."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

from validation.case.case import Case
from validation.case.data import NEVER_CHOSEN, has_an_idle_expert
from validation.case.parameters import Parameter, parameters

NORM_SPREAD = 0.2
BIAS_SPREAD = 0.1
_IDLE = 1
"""The expert that no token chooses, where there is one. It shares its group and, with ep, its rank with experts that work."""


def make_weights(case: Case) -> Iterator[tuple[Parameter, torch.Tensor]]:
    """Every parameter of the case's preset with its random value, float32, experts stacked.

    Matrices are scaled by their fan-in, which leaves attention scores and router logits with a spread of about one:
    neither uniform nor saturated. Norm weights are spread around one and the expert bias around zero, since a norm that
    was never loaded, or a bias that was lost, shows only where the right value is not the default.
    """
    wanted = iter(parameters(case.model).values())
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="weights") as pool:
        # Each has a seed of its own, and normal noise is drawn by one thread. Few are ahead of whoever takes them.
        ahead = deque((one, pool.submit(made, case, one)) for one in itertools.islice(wanted, torch.get_num_threads()))
        while ahead:
            parameter, value = ahead.popleft()
            yield parameter, value.result()
            ahead.extend((one, pool.submit(made, case, one)) for one in itertools.islice(wanted, 1))


def made(case: Case, parameter: Parameter) -> torch.Tensor:
    """One parameter of the case's preset."""
    seed = hashlib.sha256(f"{case.seed}:{parameter.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big", signed=True))
    value = scaled(parameter, torch.randn(parameter.shape, generator=generator, dtype=torch.float32))
    if parameter.name.endswith("_bias") and has_an_idle_expert(case):
        value[_IDLE] = value.min() - NEVER_CHOSEN
    return value


def scaled(parameter: Parameter, noise: torch.Tensor) -> torch.Tensor:
    """A parameter's values from normal noise of its shape, or of the shape of one expert."""
    if parameter.name.endswith("norm.weight"):
        return 1 + NORM_SPREAD * noise
    if parameter.name.endswith(("_bias", ".bias")):
        return BIAS_SPREAD * noise
    if parameter.name == "model.embed_tokens.weight":
        return noise
    divided: torch.Tensor = noise / parameter.shape[-1] ** 0.5
    return divided


def save_weights(case: Case, path: Path) -> str:
    """Write the weights as a HuggingFace checkpoint holds them, one tensor per expert; returns their sha256."""
    state: dict[str, torch.Tensor] = {}
    digest = hashlib.sha256()
    for parameter, value in make_weights(case):
        digest.update(parameter.name.encode())
        digest.update(value.numpy().data)
        keys = parameter.keys()
        state |= {key: part.clone() for key, part in zip(keys, value, strict=True)} if len(keys) > 1 else {keys[0]: value}
    save_file(state, path)
    return digest.hexdigest()

"""What the fork server imports once, so that every rank starts with it.

Imported in the fork server by name. Nothing here may start a thread, a process group or CUDA: a fork would break it.
"""

from __future__ import annotations

import gc

# Imports and ranks make objects by the million and few cycles: the default of 700 has Python look for them all the time.
gc.set_threshold(200_000, 50, 50)

import os  # noqa: E402
import warnings  # noqa: E402

from validation.case import interpreter  # noqa: E402

interpreter.settle()

import torch  # noqa: E402

# Whatever the environment asks for: no fork of a process with a pool of threads.
torch.set_num_threads(1)

from torch.nn import functional  # noqa: E402

from validation import checkout  # noqa: E402
from validation.case.case import ON_CPU  # noqa: E402

TRANSPORT = os.environ.get("PLUMBLINE_TRANSPORT", "gloo")

checkout.install()

from validation.candidate import platform, tuning  # noqa: E402

if TRANSPORT in ON_CPU:
    platform.install(TRANSPORT)

# megatron-core warns at import of each optional package that is absent; `doctor` says it better.
with warnings.catch_warnings(action="ignore"), platform.uncompiled(), platform.unused_kernels(), platform.broken_is_absent():
    from validation.compare import exchanged, fused, native
    from validation.run import worker  # noqa: F401


def _call_once(steps: bool) -> None:
    """Have torch set itself up for the kinds of operations that ranks begin with: 10 ms of each rank's time.

    On one thread this starts no other, and it draws no random number. Where there is a GPU the backward pass would initialise
    it. torch's optimizers import its compiler when they first step, which only a run with `steps` does.
    """
    x = torch.ones(16, 16, dtype=torch.float64, requires_grad=True)
    y = functional.rms_norm(functional.silu(functional.linear(x, x)), (16,)).softmax(-1)
    values, indices = y.topk(4, dim=-1)
    z = torch.zeros_like(y).scatter(1, indices, values).gather(1, indices).cumsum(0)
    heads = torch.bmm(y[None], x[None])[None]
    (functional.scaled_dot_product_attention(heads, heads, heads).pow(2).sum() + z.mean()).backward()
    if steps:
        torch.optim.AdamW([x]).step()


platform.mend(on_cpu=TRANSPORT in ON_CPU)
# Compiled and loaded once, and not by every rank.
native.library()
# Where torch's functions are is looked up once, too.
exchanged.others()
if TRANSPORT in ON_CPU:
    _call_once(steps=bool(os.environ.get("PLUMBLINE_STEPS")))
else:
    fused.warm_up()
    tuning.take_the_first()
    if os.environ.get("PLUMBLINE_COMPILES"):
        torch.compile(_call_once)  # compiles nothing before it is called, and imports what compiles
    # A cycle may hold memory of the GPU, of which Python knows nothing.
    gc.set_threshold(20_000, 20, 20)

# What is imported stays: kept out of the collector, its pages are not copied into every rank by a collection there.
gc.collect()
gc.freeze()

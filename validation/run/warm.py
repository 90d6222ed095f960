"""What the fork server imports once, so that every rank starts with it.

Imported in the fork server by name. Nothing here may start a thread, a process group or CUDA: a fork would break it.
"""

from __future__ import annotations

import gc

# Imports and ranks make objects by the million and few cycles: the default of 700 has Python look for them all the time.
gc.set_threshold(20_000, 20, 20)

import os  # noqa: E402
import warnings  # noqa: E402

from validation import checkout  # noqa: E402
from validation.case.case import ON_CPU  # noqa: E402

TRANSPORT = os.environ.get("PLUMBLINE_TRANSPORT", "gloo")

checkout.install()

from validation.candidate import platform  # noqa: E402

if TRANSPORT in ON_CPU:
    platform.install(TRANSPORT)

with warnings.catch_warnings(), platform.uncompiled():
    # megatron-core warns at import of each optional package that is absent; `doctor` says it better.
    warnings.simplefilter("ignore")
    from validation.compare import fused, native
    from validation.run import worker  # noqa: F401

if os.environ.get("PLUMBLINE_STEPS"):
    # torch's optimizers import it when they first step: once here, and not in every rank.
    import torch._dynamo  # noqa: F401

platform.mend(on_cpu=TRANSPORT in ON_CPU)
# Compiled and loaded once, and not by every rank.
native.library()
if TRANSPORT not in ON_CPU:
    fused.warm_up()

# What is imported stays: kept out of the collector, its pages are not copied into every rank by a collection there.
gc.collect()
gc.freeze()

"""megatron-core for tests that use it in their own process, imported as a rank imports it.

What stands in for CUDA in the ranks of a CPU case is left out: it would outlive these tests, and later ones that use a GPU
would be given the CPU. A broken Transformer Engine counts as absent, as in a rank, and keeps no test from being collected.
"""

from __future__ import annotations

import importlib
import warnings

from validation.candidate import platform

with warnings.catch_warnings(action="ignore"), platform.uncompiled(), platform.unused_kernels(), platform.broken_is_absent():
    importlib.import_module("validation.run.worker")
platform.mend(on_cpu=False)

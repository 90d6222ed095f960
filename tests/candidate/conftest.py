"""megatron-core, imported as a rank imports it, without what stands in for CUDA in the ranks of a CPU case.

The stand-ins would outlive these tests, and the tests of one process that use a GPU would be given the CPU.
"""

from __future__ import annotations

import importlib

from validation.candidate import platform

with platform.uncompiled(), platform.broken_is_absent():
    importlib.import_module("validation.run.worker")
platform.mend(on_cpu=False)

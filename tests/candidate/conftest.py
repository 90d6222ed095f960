"""megatron-core, imported as a rank on the CPU imports it."""

from __future__ import annotations

import importlib

# Mends what megatron-core needs mended before and after its first import.
importlib.import_module("validation.run.warm")

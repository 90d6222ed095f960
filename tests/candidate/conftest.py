"""These tests use megatron-core, which is imported before their modules are."""

from __future__ import annotations

import tests.core  # noqa: F401

"""What a plugin has replaced in megatron-core and no rank of a case calls: no check shows it."""

from __future__ import annotations

from collections.abc import Mapping

PROPERTY = "plugin_not_called"
"""The property of a testsuite that says it."""


def said(found: Mapping[str, str]) -> str:
    """`megatron.core.a.f (megatron.core.b still has the original), megatron.core.c.D.g`; empty for nothing."""
    return ", ".join(f"{name} ({where} still has the original)" if where else name for name, where in found.items())

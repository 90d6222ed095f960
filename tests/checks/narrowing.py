"""A plugin of pytest that leaves checks out, as a file that surrounds the checks may."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if "weight" in item.name or item.name.startswith("test_number")]

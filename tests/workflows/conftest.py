"""Every scenario, played once; where Node is missing the reason, which in CI is a failure."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from tests.workflows.scenarios import Played, node_is_there, play_all

IN_CI = os.environ.get("CI", "").lower() in ("true", "1")
"""As the session was started; tests/conftest.py takes the variable away."""
WHY = "Node.js 20 and GitHub's packages are needed: npm ci --prefix tests/workflows"


@pytest.fixture(scope="session")
def node() -> None:
    """GitHub's packages, or no test."""
    if not node_is_there():
        (pytest.fail if IN_CI else pytest.skip)(WHY)


@pytest.fixture(scope="session")
def played(node: None, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Played]:
    """What came of each scenario."""
    return play_all(tmp_path_factory.mktemp("scenarios"))

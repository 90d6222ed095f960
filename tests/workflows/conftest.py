"""Every scenario, played once; where Node is missing the reason, which in CI is a failure."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from tests.workflows.scenarios import NEEDED, Played, node_is_there, play_all

IN_CI = os.environ.get("CI", "").lower() in ("true", "1")
"""As the session was started; tests/conftest.py takes the variable away."""


@pytest.fixture(scope="session")
def node() -> None:
    """GitHub's packages, or no test."""
    if not node_is_there():
        (pytest.fail if IN_CI else pytest.skip)(NEEDED)


@pytest.fixture(scope="session")
def played(node: None, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Played]:
    """What came of each scenario."""
    return play_all(tmp_path_factory.mktemp("scenarios"))

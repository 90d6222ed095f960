"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

_OF_THE_MACHINE = ("PLUMBLINE_CACHE", "PLUMBLINE_BROWSER")


def pytest_configure(config: pytest.Config) -> None:
    """The checks may be imported: they bring a mark of their own."""
    config.addinivalue_line("markers", "every(name, kind): one check for every layer or parameter of a kind")


@pytest.fixture(scope="session", autouse=True)
def outside_of_ci() -> Iterator[None]:
    """Commands run as on a developer's machine: CI has every run test itself, too, and GitHub says which attempt a job is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name == "CI" or (name.startswith(("GITHUB_", "PLUMBLINE_")) and name not in _OF_THE_MACHINE):
                patch.delenv(name)
        yield

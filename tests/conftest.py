"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """The checks may be imported: they bring a mark of their own."""
    config.addinivalue_line("markers", "every(name, kind): one check for every layer or parameter of a kind")


@pytest.fixture(scope="session", autouse=True)
def outside_of_ci() -> Iterator[None]:
    """Commands run as on a developer's machine: CI systems set CI, which has every run test itself, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CI", raising=False)
        yield

"""What is missing is said before anything is started."""

from __future__ import annotations

import pytest

from validation.case.errors import EnvironmentMissing
from validation.machine import ABSENT
from validation.run import prepare


@pytest.mark.parametrize(("transport", "file"), [("gloo", "requirements/cpu.txt"), ("nccl", "requirements/cuda.txt")])
def test_missing_packages_are_named_with_what_brings_them(monkeypatch: pytest.MonkeyPatch, transport: str, file: str) -> None:
    monkeypatch.setattr(prepare, "version", lambda name: ABSENT if name in ("transformers", "junitparser") else "1.0")
    with pytest.raises(EnvironmentMissing, match=rf"^transformers, junitparser: not installed .*{file}"):
        prepare._find_packages(transport)


def test_nothing_missing_is_no_error() -> None:
    prepare._find_packages("gloo")

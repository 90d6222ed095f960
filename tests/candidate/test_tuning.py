"""Of several configurations of a Triton kernel the first is taken, and none is measured."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from validation.candidate import tuning


class Autotuner:
    """Chooses as Triton's does: the configuration with the least time."""

    def _bench(self, *arguments: Any, config: str, **others: Any) -> list[float]:
        raise AssertionError(f"{config} is measured")

    def choose(self, *configs: str) -> str:
        """Of those that are given."""
        timings = {config: self._bench(1, config=config, size=2) for config in configs}
        return min(timings, key=lambda config: timings[config])


def test_the_first_configuration_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module, package = ModuleType("triton.runtime.autotuner"), ModuleType("triton.runtime")
    vars(module)["Autotuner"], vars(package)["autotuner"] = Autotuner, module
    for name, there in (("triton", ModuleType("triton")), ("triton.runtime", package), (module.__name__, module)):
        monkeypatch.setitem(sys.modules, name, there)
    with pytest.raises(AssertionError):
        Autotuner().choose("small", "large")
    tuning.take_the_first()
    assert Autotuner().choose("small", "large") == "small"


def test_nothing_happens_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    tuning.take_the_first()


@pytest.mark.gpu
def test_the_real_one_takes_the_first() -> None:
    """Whose name and signature are Triton's own business."""
    autotuner = pytest.importorskip("triton.runtime.autotuner")
    before = autotuner.Autotuner._bench
    try:
        tuning.take_the_first()
        one = object.__new__(autotuner.Autotuner)
        assert one._bench(1, config="any", BLOCK=2) == [0.0]
    finally:
        autotuner.Autotuner._bench = before

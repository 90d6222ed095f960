"""Memory as the operating system and the device tell it."""

from __future__ import annotations

import resource
from types import SimpleNamespace

import pytest
import torch

from validation.compare.memory import device_peak, peak_memory


def test_the_peak_of_this_process_is_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system counts in KiB, and of this process, not of its children."""
    asked = []

    def usage(who: int) -> SimpleNamespace:
        asked.append(who)
        return SimpleNamespace(ru_maxrss=3)

    monkeypatch.setattr(resource, "getrusage", usage)
    assert peak_memory() == 3 * 1024
    assert asked == [resource.RUSAGE_SELF]


@pytest.mark.parametrize(("initialised", "expected"), [(False, 0), (True, 7)])
def test_a_device_that_is_not_used_has_no_peak(monkeypatch: pytest.MonkeyPatch, initialised: bool, expected: int) -> None:
    """Asking would initialise it."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    assert device_peak() == expected

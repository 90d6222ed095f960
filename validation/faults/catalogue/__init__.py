"""The catalogue: a file for each fault, named by its id, which holds what is known of it and puts it in. No torch."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from validation.faults.fault import Fault


def ids() -> tuple[str, ...]:
    """Every fault's, in order."""
    return tuple(sorted(module.name.upper() for module in pkgutil.iter_modules(__path__)))


@functools.cache
def find(name: str) -> Fault:
    """The fault with that id. Raises ModuleNotFoundError."""
    found: Fault = importlib.import_module(f"{__name__}.{name.lower()}").FAULT
    return found


def faults(megatron_core: str = "") -> tuple[Fault, ...]:
    """All of them, group by group; of one release those that it can have."""
    from validation.faults.fault import GROUPS

    found = (fault for fault in map(find, ids()) if fault.exists_in(megatron_core))
    return tuple(sorted(found, key=lambda fault: (GROUPS.index(fault.group), fault.id)))

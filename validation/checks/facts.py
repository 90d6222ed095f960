"""What the reports say of a case before it has run: the manifest demands the same of its results."""

from __future__ import annotations

import hashlib

from validation.case.case import Case
from validation.case.settings import written

_FIELDS = ("preset", "precision", "implementation", "transport", "isolated", "seed")
_DATA = ("batch_size", "micro_batch_size", "seq_length")


def case_facts(case: Case) -> dict[str, str]:
    """As properties of its testsuite. `case` stands for everything that makes the case: numbers, options and all."""
    said = {field: str(getattr(case, field)) for field in (*_FIELDS, *_DATA)}
    digest = hashlib.sha256(case.to_json().encode()).hexdigest()[:16]
    given = " ".join(f"{name}={written(value)}" for name, value in case.training.settings)
    said |= {"settings": given} if given else {}
    return said | {"layout": case.layout.name, "arrangement": case.arrangement, "ranks": str(case.layout.ranks), "case": digest}


def case_file(name: str) -> str:
    """The name of a testsuite's file."""
    return f"{name}.xml"

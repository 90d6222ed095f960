"""What a run that broke tells a user, where the ranks' own words do not: out of memory, a library that cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.case.memory import GIB
from validation.case.preflight import RULES
from validation.case.remedies import needed, remedies
from validation.machine import gpus
from validation.run.launch import Broken

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_NO_ATTENTION = ("No dot product attention", "No attention backend")


def explained(case: Case, broken: Broken) -> Broken:
    """The same with what to do about it."""
    if any(words in broken.sentence for words in _OUT_OF_MEMORY):
        first, count = broken.sentence.splitlines()[0].rstrip("."), max(1, gpus())
        estimated = f"the estimate for {case.title} was {needed(case, count) / GIB:.1f} GiB"
        return replace(broken, sentence=f"{first}; {estimated}; {remedies(case, count, RULES)}")
    if not case.uses_te:
        return broken
    if any(words in broken.sentence for words in _NO_ATTENTION):
        sentence = (
            f"Transformer Engine has no {case.implementation.partition('-')[2] or 'core'} attention for {case.title} on this "
            "GPU; --implementation te-unfused works, or te, which takes what there is"
        )
        return Broken(broken.rank, sentence, broken.stacks, ExitCode.ENVIRONMENT)
    cause = why_not_imported("transformer_engine.pytorch")
    if cause is None:
        return broken
    sentence = f"Transformer Engine cannot be imported ({cause}); reinstall it for this torch, or take --implementation local"
    return Broken(broken.rank, sentence, broken.stacks, ExitCode.ENVIRONMENT)


def why_not_imported(module: str) -> str | None:
    """The last line that Python says about it, in a process of its own; None where the import works."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return "it hangs"
    if done.returncode == 0:
        return None
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit status {done.returncode}")

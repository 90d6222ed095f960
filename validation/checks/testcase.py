"""What pytest reports of a check, and what the ranks say of themselves, as JUnit has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci import junit
from validation.checks.titles import classname_of

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result


def ranks_of(result: Result) -> dict[str, str]:
    """A testsuite's properties about each rank: memory in MiB, and its place in the layout."""
    said = {}
    for rank, found in enumerate(result.memory):
        said[f"rank_{rank}_peak_memory_over_imports_mib"] = str((found["peak"] - found["baseline"]) >> 20)
        if found["device_peak"]:
            said[f"rank_{rank}_peak_gpu_memory_mib"] = str(found["device_peak"] >> 20)
        said[f"rank_{rank}_place"] = ", ".join(f"{degree} {index}" for degree, index in result.places[rank].items())
        said[f"rank_{rank}_parameters_mib"] = f"{found['parameters'] / (1 << 20):.1f}"
    return said


def check_of(report: Any, status: str, verdict: Verdict | None, line: str, details: str) -> junit.Check:
    """The testcase of pytest's report of a check, with its verdict where the check left one."""
    return junit.Check(
        classname=classname_of(report.nodeid),
        name=report.title,
        status=status,
        seconds=report.duration,
        message="" if status == "pass" else line,
        details="\n".join((line, details or (verdict.details if verdict else ""))),
        properties=verdict.properties if verdict else {},
    )

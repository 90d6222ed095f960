"""From the testsuites of a run to the cause of its failures, in one sentence (docs/diagnosis.md). Imports no torch."""

from ci.diagnosis.deciding import decides
from ci.diagnosis.diagnosis import Diagnosis, First
from ci.diagnosis.explain import diagnose

__all__ = ["Diagnosis", "First", "decides", "diagnose"]

"""What megatron-core's configuration classes say against a case, asked before any rank starts."""

from __future__ import annotations

import traceback
import warnings
from types import SimpleNamespace

from validation.candidate import versions
from validation.candidate.build import ddp_config
from validation.candidate.config import transformer_config
from validation.candidate.optimizer import optimizer_config, scheduler
from validation.case.case import Case
from validation.case.data import PACKED, PACKED_PADDED


def _scheduler_of_nothing(case: Case) -> None:
    """The scheduler of the rates, with an optimizer that has no parameters."""
    if case.training.steps:
        scheduler(case, SimpleNamespace(param_groups=[]))


_CONFIGURATIONS = (transformer_config, ddp_config, optimizer_config, _scheduler_of_nothing)


def refusal(case: Case) -> str | None:
    """Why a configuration class of megatron-core's refuses the case, or would its MTP layer; None if all take it."""
    if case.model.num_nextn_predict_layers and case.training.data_shape in (PACKED, PACKED_PADDED) and not versions.PACKED_MTP:
        return f"{case.arrangement}: before 0.16 Megatron-Core's MTP layer takes no packed documents; +documents works"
    with warnings.catch_warnings(action="ignore"):
        for configuration in _CONFIGURATIONS:
            try:
                configuration(case)
            # What __post_init__ raises against a combination, NotImplementedError for some; anything else is ours, and shows.
            except (AssertionError, ValueError, NotImplementedError, RuntimeError) as error:
                return f"Megatron-Core refuses {case.label}: {_said(error)}"
    return None


def _said(error: Exception) -> str:
    """Its message on one line; of an assertion without one, what is asserted."""
    message = " ".join(str(error).split())
    line = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return (message or line or type(error).__name__).rstrip(".")

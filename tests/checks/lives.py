"""Plugins that put a defect between two steps, by name: validation run --plugin tests/checks/lives.py:NAME."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from validation.faults.inject import replace


def _of_loading(change: Any) -> SimpleNamespace:
    """A plugin that changes what the optimizer loads."""

    def configure(case: Any, config: Any) -> None:
        def made(sound: Any) -> Any:
            def load(chunks: Any, optimizer: Any, folder: Any) -> None:
                sound(chunks, optimizer, folder)
                change(optimizer)

            return load

        replace("validation.candidate.checkpointing", "load", made)

    return SimpleNamespace(configure=configure)


def _states(optimizer: Any) -> list[dict[str, Any]]:
    return [state for part in optimizer.parts for state in part.optimizer.state.values()]


def moments_are_lost() -> SimpleNamespace:
    """A resumed optimizer begins with moments of zero."""
    return _of_loading(lambda optimizer: [state["exp_avg"].zero_() for state in _states(optimizer)])


def steps_are_not_counted() -> SimpleNamespace:
    """AdamW corrects the bias of its moments as in the first step."""
    return _of_loading(lambda optimizer: [state["step"].zero_() for state in _states(optimizer)])


def schedule_begins_again() -> SimpleNamespace:
    """The scheduler has taken no step."""

    def begin(optimizer: Any) -> None:
        optimizer.scheduler.num_steps = 0
        optimizer.scheduler.step(0)

    return _of_loading(begin)


def evaluation_counts() -> SimpleNamespace:
    """Tokens of an evaluation pass are counted into the loads that move the expert bias."""

    def configure(case: Any, config: Any) -> None:
        import torch

        def made(sound: Any) -> Any:
            def apply(self: Any, *given: Any, **keywords: Any) -> None:
                with torch.enable_grad():
                    sound(self, *given, **keywords)

            return apply

        replace("megatron.core.transformer.moe.router", "TopKRouter._apply_expert_bias", made)

    return SimpleNamespace(configure=configure)


def masters_are_stale() -> SimpleNamespace:
    """Weights that are loaded alone do not reach the masters."""

    def configure(case: Any, config: Any) -> None:
        replace("validation.candidate.checkpointing", "load_weights_alone", lambda sound: lambda optimizer: None)

    return SimpleNamespace(configure=configure)


def plugin(argument: str) -> Any:
    """The defect of that name."""
    return globals()[argument]()

"""What the peers' published rules say of the same runs, each applied as it is written where it is.

They are given what they would see at best: their own comparisons of weights are round trips, in which a mistake made in both
directions cancels; here they see the ranks' weights against the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validation.case.inference import infers
from validation.case.parameters import parameters
from validation.case.probes import observed
from validation.scorecard.watched import NOTES

if TYPE_CHECKING:
    from validation.run.result import Result


@dataclass(frozen=True)
class Rule:
    """A rule of somebody else's: what it is called here, what it asks, where it stands (nowhere: the figure that users
    know), and whether a result breaks it.
    """

    name: str
    asks: str
    link: str
    broken: Callable[[Result], bool]


def _noted(result: Result, what: str) -> list[dict[str, Any]]:
    """Each place once, whichever rank noted it."""
    found: dict[str, dict[str, Any]] = {}
    for notes in result.notes:
        found |= notes.get(NOTES, {}).get(what, {})
    return list(found.values())


def _weights(rule: str) -> Callable[[Result], bool]:
    def broken(result: Result) -> bool:
        """Elements too far off, or a tensor that the model has not."""
        absent = any(f"weights/{name}" not in result.pieces for name in parameters(result.case.model))
        return absent or any(notes[rule] for notes in _noted(result, "weights"))

    return broken


def _last_token(result: Result) -> bool:
    found = [notes for notes in _noted(result, "logits") if "products" in notes]
    if not found:
        return True
    one, cross, other = (math.fsum(notes["products"][index] for notes in found) for index in range(3))
    ours, theirs = (max(notes["largest"][side] for notes in found)[1] for side in range(2))
    return not (ours == theirs and cross / math.sqrt(one * other) >= 0.99)


def _mean_logits(result: Result) -> bool:
    found = _noted(result, "logits")
    count = math.fsum(notes["count"] for notes in found)
    return not (count and math.fsum(notes["error"] for notes in found) / count < 0.1)


def _mean_log_probability(result: Result) -> bool:
    found = _noted(result, "token_loss")
    count = math.fsum(notes["count"] for notes in found)
    ours, theirs = (math.fsum(notes[side] for notes in found) / (count or math.nan) for side in ("candidate", "reference"))
    return not abs(ours - theirs) <= 1e-3 + 1e-2 * abs(theirs)


def _largest(result: Result) -> bool:
    measured = result.measurement("logits", observed(result.case)["logits"].shape)
    return not (measured.pieces and measured.difference.max_abs < 1e-3)


_BRIDGE = "https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/main/examples/conversion"
_VERL = "https://github.com/volcengine/verl/blob/main"
RULES = (
    Rule(
        "Bridge round trip",
        "weights: allclose, atol 1e-1, rtol 1e-5",
        f"{_BRIDGE}/hf_megatron_roundtrip_multi_gpu.py",
        _weights("bridge"),
    ),
    Rule(
        "Bridge compare.py",
        "last token of one prompt: same argmax, cosine of the logits at least 0.99",
        f"{_BRIDGE}/compare_hf_and_megatron/compare.py",
        _last_token,
    ),
    Rule(
        "ms-swift",
        "logits: mean absolute difference below 0.1 over tokens with a loss",
        "https://github.com/modelscope/ms-swift/blob/main/swift/megatron/utils/convert_utils.py",
        _mean_logits,
    ),
    Rule(
        "verl merger",
        "weights: assert_close, atol 1e-2, rtol 5e-2",
        f"{_VERL}/verl/model_merger/megatron_model_merger.py",
        _weights("verl"),
    ),
    Rule(
        "verl engine test",
        "mean log probability: assert_close, atol 1e-3, rtol 1e-2",
        f"{_VERL}/tests/models/test_engine.py",
        _mean_log_probability,
    ),
    Rule("max diff < 1e-3", "logits: largest absolute difference", "", _largest),
)


def said(result: Result) -> Mapping[str, bool]:
    """By rule, whether it is broken. Of a case that infers they see its weights: none looks at a pass with a cache."""
    blind = infers(result.case)
    return {rule.name: not (blind and not rule.asks.startswith("weights")) and rule.broken(result) for rule in RULES}

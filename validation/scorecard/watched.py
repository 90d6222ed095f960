"""The catalogue's faults as plugins that also note what the peers' rules look at: `validation.scorecard.watched:A01`.

`clean` is none of them. Ordinary runs know nothing of this: the rules' numbers are taken where the scorecard runs alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from validation.run.plugin import FUNCTIONS

CLEAN = "clean"
NOTES = "peers"
"""The name of the notes."""


def plugin_of(fault: str = CLEAN) -> str:
    """The plugin for a fault's id; without one that of a sound run."""
    return f"{__name__}:{fault}"


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    fault = None if name == CLEAN else importlib.import_module(f"validation.faults.catalogue.{name.lower()}")
    functions = {word: getattr(fault, word) for word in FUNCTIONS if hasattr(fault, word)}
    sound = functions.get("configure", lambda case, config: None)

    def configure(case: Any, config: Any) -> None:
        _watch()
        sound(case, config)

    return SimpleNamespace(**{**functions, "configure": configure})


def _watch() -> None:
    """Have the recorder note what the rules ask of weights, logits and losses, as it measures them."""
    from validation.candidate.recorder import Recorder

    compare, measure = Recorder.compare, Recorder.measure

    def compared(self: Any, name: str, tensor: Any, box: Any, reference: Path, *rest: Any, **keywords: Any) -> None:
        self.batch_of_peers = reference.with_name("batch.safetensors")
        compare(self, name, tensor, box, reference, *rest, **keywords)

    def measured(self: Any, name: str, tensor: Any, box: Any, expected: Any, *rest: Any, **keywords: Any) -> None:
        measure(self, name, tensor, box, expected, *rest, **keywords)
        note = _NOTED.get(name.partition("/")[0])
        if note is not None and tensor.shape == expected.shape:
            found = self.notes.setdefault(NOTES, {}).setdefault(name.partition("/")[0], {})
            note(self, found, f"{name} {box}", box, tensor.detach().double(), expected.to(tensor.device).double())

    vars_of: Any = Recorder
    vars_of.compare, vars_of.measure = compared, measured


def _weights(recorder: Any, found: dict[str, Any], key: str, box: Any, tensor: Any, expected: Any) -> None:
    """By how much each of the rules about weights is exceeded, in elements; only where anything differs."""
    error, size = (tensor - expected).abs(), expected.abs()
    if not bool((error == 0).all()):
        found[key] = {rule: int((~(error <= absolute + relative * size)).sum()) for rule, (absolute, relative) in CLOSE.items()}


CLOSE = {"bridge": (1e-1, 1e-5), "verl": (1e-2, 5e-2)}
"""Absolute and relative tolerance of the two rules about weights."""


def _mask(recorder: Any, box: Any) -> Any:
    rows, positions = (slice(start, stop) for start, stop in box[:2])
    return recorder.file(recorder.batch_of_peers).read("0/mask", (rows, positions)).double()


def _token_loss(recorder: Any, found: dict[str, Any], key: str, box: Any, tensor: Any, expected: Any) -> None:
    mask = _mask(recorder, box).to(tensor.device)
    found[key] = {
        "candidate": float((tensor * mask).sum()),
        "reference": float((expected * mask).sum()),
        "count": float(mask.sum()),
    }


def _logits(recorder: Any, found: dict[str, Any], key: str, box: Any, tensor: Any, expected: Any) -> None:
    """Of all that count the error; of the first sequence's last token what its cosine and its largest element are made of."""
    mask = _mask(recorder, box).to(tensor.device)[..., None]
    kept: dict[str, Any] = {
        "error": float(((tensor - expected).abs() * mask).sum()),
        "count": float(mask.sum() * tensor.shape[-1]),
    }
    last = box[0][0] == 0 and box[1][1] == recorder.file(recorder.batch_of_peers).shape("0/mask")[1]
    if last:
        one, other, first = tensor[0, -1], expected[0, -1], box[2][0]
        kept["products"] = [float(one @ one), float(one @ other), float(other @ other)]
        kept["largest"] = [[float(row.max()), first + int(row.argmax())] for row in (one, other)]
    found[key] = kept


_NOTED: dict[str, Callable[..., None]] = {"weights": _weights, "token_loss": _token_loss, "logits": _logits}

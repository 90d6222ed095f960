"""Megatron's log-probabilities of the same tokens, under a layout, from ranks that are started for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validation import checkout
from validation.case import inference, preflight
from validation.case.case import Case
from validation.case.data import FULL
from validation.case.errors import InfrastructureError, UsageError
from validation.case.plural import many
from validation.machine import available_memory, gpus
from validation.rollout import entry
from validation.rollout.dump import Dump
from validation.run import ahead, launch
from validation.run.command_line import MAX_RANKS
from validation.run.diagnose import explained
from validation.run.options import parsed

_TIMEOUT = 600.0
_NOTHING = 0
"""The token that fills sequences up. It stands behind them, so that no token sees it."""


@dataclass(frozen=True)
class Wanted:
    """What Megatron is to run: the layout, its weights if they are not those of the HuggingFace folder, and the precision."""

    layout: str
    checkpoint: str | None
    precision: str
    megatron_path: str | None = None
    transport: str = "gloo"
    implementation: str = "local"


def case_of(wanted: Wanted, folder: Path, dump: Dump) -> Case:
    """The case whose forward pass has all sequences of the dump, filled up. Raises UsageError for what cannot run here."""
    words = ["--hf-model-path", str(folder), "--layouts", wanted.layout, "--precision", wanted.precision, "--steps", "0"]
    words += ["--transport", wanted.transport, "--implementation", wanted.implementation]
    words += ["--candidate-checkpoint", wanted.checkpoint] if wanted.checkpoint else []
    cases = parsed([*words, "--batch-size", "1", "--micro-batch-size", "1"]).cases
    case, layout = cases[0], cases[0].layout
    if len(cases) > 1:
        raise UsageError(f"--layout {wanted.layout} names {many(len(cases), 'layout')}; give one")
    if case.training.data_shape != FULL or case.training.stream or case.training.life or inference.infers(case):
        raise UsageError(
            f"--layout {wanted.layout} asks for other data or other steps, and here is one forward pass over the file's "
            f"sequences; give {layout.name}"
        )
    length, count = max(len(one.tokens) for one in dump.sequences), len(dump.sequences)
    even = layout.data_parallel * (layout.pp if layout.vpp > 1 else 1)
    case = replace(
        case,
        model=replace(case.model, num_nextn_predict_layers=0),
        batch_size=math.ceil(count / even) * even,
        seq_length=math.ceil(length / (2 * layout.cp * layout.tp)) * 2 * layout.cp * layout.tp,
    )
    preflight.check(case, max_ranks=MAX_RANKS, gpus=gpus(), memory=available_memory())
    return case


def prepare(wanted: Wanted) -> None:
    """Start what imports megatron-core, while this process does other things."""
    checkout.choose(Path(wanted.megatron_path) if wanted.megatron_path else None)
    launch.prepare(wanted.transport)
    launch.warm_up()


def logprobs(case: Case, dump: Dump) -> list[Any]:
    """The log-probability of each token, [sequence] for each sequence, float64; NaN for the first. Raises RunBroke."""
    import torch

    ahead.Question((case,), _TIMEOUT).check()
    with launch.run_folder() as run_folder:
        batch = run_folder / "batch.safetensors"
        _write(case, dump, batch)
        arguments = (case.to_json(), str(run_folder), str(batch), dump.applied, _TIMEOUT)
        with _told(case):
            reports = launch.launch(entry.rank, arguments, case.layout.ranks, run_folder, _TIMEOUT)
    whole = torch.full((case.batch_size, case.seq_length + 1), float("nan"), dtype=torch.float64)
    for part in (part for report in reports for part in report["parts"]):
        _put(whole, part)
    found = [whole[at, : len(one.tokens)].clone() for at, one in enumerate(dump.sequences)]
    if any(bool(one[1:].isnan().any()) for one in found):
        raise InfrastructureError("Megatron's ranks have not returned every token; run it again, and report it if it stays")
    return found


def _put(whole: Any, part: Mapping[str, Any]) -> None:
    """What is said at a position is of the token behind it."""
    import torch

    rows = slice(part["first"], part["first"] + len(part["logprobs"]))
    whole[rows, [position + 1 for position in part["positions"]]] = torch.tensor(part["logprobs"], dtype=torch.float64)


@contextmanager
def _told(case: Case) -> Iterator[None]:
    """A run that breaks says so in the words of `run`."""
    try:
        yield
    except (launch.RunBroke, OSError) as error:
        raise launch.RunBroke(explained(case, launch.broken_by(error), in_ranks=True)) from error


def _write(case: Case, dump: Dump, path: Path) -> None:
    """The batch of the case: the sequences of the dump, the last one again as often as the layout needs."""
    import torch
    from safetensors.torch import save_file

    from validation.reference.batch import Batch

    rows: list[Sequence[int]] = [one.tokens for one in dump.sequences]
    rows += rows[-1:] * (case.batch_size - len(rows))
    stream = torch.tensor([[*row, *(_NOTHING,) * (case.seq_length + 1 - len(row))] for row in rows])
    tokens, labels = stream[:, :-1].clone(), stream[:, 1:].clone()
    save_file(Batch(tokens, labels, torch.ones_like(tokens, dtype=torch.bool)).tensors(), path)

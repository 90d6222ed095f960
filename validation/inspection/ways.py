"""Which commands would work on a folder, which would not and why, and how much memory a run takes. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from validation.case import preflight, tree
from validation.case.case import DEFAULT_SEED, Case
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.memory import GIB, estimate
from validation.case.model import Model
from validation.case.training import Training
from validation.inspection.quantised import Quantised

_SEQUENCES, _LENGTH = 2, 64
"""What `run --hf-model-path` takes unless it is told otherwise."""
_LAYOUTS = ("single", "tp2", "pp2", "ep2")


@dataclass(frozen=True)
class Whole:
    """Whether all that the model needs is there: without its MTP layers, and with them."""

    model: bool
    with_mtp: bool


def ways(folder: Path, model: Model, how: Quantised, whole: Whole, memory: int) -> Iterator[tuple[str, str]]:
    """`works` with a command, or `refused` with a sentence; then what it takes."""
    name, without = shlex.quote(str(folder)), "" if whole.with_mtp else " --no-mtp"
    if not whole.model:
        yield "refused", "run and convert: the files are not those of one whole model (see above)"
        return
    if how.converts:
        yield "works", f"{tree.VALIDATION} convert --hf-model-path {name} --save OUT{without}"
    if not how.runs:
        if not how.converts:
            yield "refused", "run and convert: nothing here reads weights that are quantised so; take the folder in bf16"
        else:
            yield "refused", "run: the weights are quantised; the next command makes a folder in bf16 that it takes"
            yield "works", f"{tree.VALIDATION} convert --to-hf --load {name} --save BF16{without}"
        return
    yield from _runs(folder, name, model, memory)


def _runs(folder: Path, name: str, model: Model, memory: int) -> Iterator[tuple[str, str]]:
    refused = {layout: _refusal(_case(folder, model, layout)) for layout in _LAYOUTS}
    possible = [layout for layout, said in refused.items() if said is None]
    if not possible:
        yield "refused", f"run: {refused['single']}"
        return
    for layout, said in refused.items():
        if said is not None:
            yield "refused", f"run in {layout}: {said}"
    case = _case(folder, model, possible[0])
    needed, streamed = estimate(case).host, estimate(_streamed(case)).host
    by_layers = _refusal(_streamed(case)) is None
    fits = needed <= memory
    words = f"--layouts {','.join(possible)}" if fits else "--layouts single --steps 0 --stream"
    if fits or (by_layers and streamed <= memory):
        yield "works", f"{tree.VALIDATION} run --hf-model-path {name} {words}"
    first = [*model.dense_layers[:1], *model.moe_layers[:1]]
    stream = " --stream" if by_layers else ""
    if not fits:
        yield "works", f"{tree.VALIDATION} run --hf-model-path {name} --layers {','.join(map(str, first))}{stream} --steps 0"
    each = f"about {needed / GIB:.1f} GiB in fp64 on the CPU"
    each += f", {streamed / GIB:.1f} GiB layer by layer (--stream)" if by_layers else ""
    yield "memory", f"{each}; {memory / GIB:.1f} GiB are available"


def _refusal(case: Case) -> str | None:
    try:
        preflight.check(case, max_ranks=case.layout.ranks, gpus=0, memory=None)
    except UsageError as error:
        return str(error)
    return None


def _case(folder: Path, model: Model, layout: str) -> Case:
    parsed = Layout.parse(layout)
    return Case(
        preset=folder.resolve().name,
        model=model,
        layout=parsed,
        precision="fp64",
        implementation="local",
        transport="gloo",
        seed=DEFAULT_SEED,
        batch_size=_SEQUENCES * parsed.data_parallel,
        micro_batch_size=1,
        seq_length=_LENGTH,
        training=Training(steps=2),
        hf_model_path=str(folder),
    )


def _streamed(case: Case) -> Case:
    return replace(case, training=Training(stream=True))

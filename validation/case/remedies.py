"""What would make a case smaller, with the numbers: for a GPU that has too little memory, before a run and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from validation.case.case import Case
from validation.case.memory import GIB, estimate
from validation.case.suggestions import join


def shortage(case: Case, card: int, gpus: int, rules: Sequence[Callable[[Case], str | None]], taken: int = 0) -> str | None:
    """The sentence to say when `card` bytes on the fullest of so many GPUs are not enough for the case, else None.

    `taken` are the bytes that other processes have of that GPU.
    """
    found = estimate(case, gpus)
    if found.card <= card:
        return None
    sharing = -(-case.layout.ranks // gpus)
    shared = f", {sharing} ranks on a card" if case.transport == "staged" and sharing > 1 else ""
    return (
        f"{case.title} needs about {_gib(found.card)} of GPU memory ({_gib(found.rank)} for a rank{shared}) and {_gib(card)} "
        f"are free; {_others(taken) if found.card <= card + taken else ''}{remedies(case, gpus, rules)}"
    )


def _others(taken: int) -> str:
    return f"other processes have {_gib(taken)} of the GPU, and `nvidia-smi` names them; end them, or else "


def remedies(
    case: Case, gpus: int, rules: Sequence[Callable[[Case], str | None]], of: Callable[[Case, int], int] | None = None
) -> str:
    """What would take less, each possible by the rules and with so many GPUs: the end of a sentence.

    `of` says how much a case takes: `needed`, or `ranks_need` where the reference is not what matters.
    """
    takes = of or needed
    smaller = [
        (words, takes(other, gpus))
        for words, other in _alternatives(case)
        if not any(rule(other) for rule in rules) and (case.transport != "nccl" or other.layout.ranks <= gpus)
    ]
    found = [f"{words} ({_gib(size)})" for words, size in smaller if size < takes(case, gpus)]
    return f"about this much is needed with {join(found, 'or')}" if found else "a smaller model or more memory would do"


def needed(case: Case, gpus: int) -> int:
    """Bytes where the case computes: on its fullest GPU, or on the host."""
    found = estimate(case, gpus)
    return found.host if case.on_cpu else found.card


def ranks_need(case: Case, gpus: int) -> int:
    """The same for the ranks alone: all of them on the host, or those that share a GPU."""
    sharing = case.layout.ranks if case.on_cpu else 1 if case.transport == "nccl" else -(-case.layout.ranks // gpus)
    return sharing * estimate(case, gpus).rank


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _alternatives(case: Case) -> Iterator[tuple[str, Case]]:
    """One change each, by half or by two, in the words of the command line."""
    model, layout = case.model, case.layout
    layers, hidden = model.num_hidden_layers // 2, model.hidden_size // 2
    if case.hf_model_path is None:
        yield f"--set num_hidden_layers={layers}", replace(case, model=replace(model, num_hidden_layers=layers))
        yield f"--set hidden_size={hidden}", replace(case, model=replace(model, hidden_size=hidden))
    elif layers:
        kept = (case.layers or tuple(range(model.num_hidden_layers)))[:layers]
        fewer = replace(model, num_hidden_layers=layers, first_k_dense_replace=min(model.first_k_dense_replace, layers))
        yield f"--layers {','.join(map(str, kept))}", replace(case, model=fewer, layers=kept)
    for word, name in (("--batch-size", "batch_size"), ("--seq-length", "seq_length")):
        half = getattr(case, name) // 2
        if half:
            micro = min(case.micro_batch_size, half if name == "batch_size" else case.micro_batch_size)
            yield f"{word} {half}", replace(case, micro_batch_size=micro, **{name: half})
    for degree in ("tp", "pp", "ep"):
        more = 2 * getattr(layout, degree)
        yield f"{degree}{more}", replace(case, layout=replace(layout, **{degree: more}))
    if case.precision in ("fp64", "fp32") and not case.training.steps:
        yield "--precision bf16", replace(case, precision="bf16")

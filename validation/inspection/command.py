"""`python -m validation inspect`: the first answer about a checkpoint folder, within two seconds. No torch."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from validation import machine
from validation.case import tree
from validation.case.errors import ExitCode
from validation.case.families import Described, described
from validation.case.folder import read_config
from validation.case.megatron_folder import megatron_folder
from validation.case.model import Model
from validation.case.parameters import parameters
from validation.case.plural import many
from validation.case.published import from_hf_config
from validation.case.sizes import check_numbers
from validation.inspection import megatron, odd
from validation.inspection.quantised import quantised
from validation.inspection.stored import Stored, stored
from validation.inspection.ways import Whole, ways
from validation.inspection.wrong import wrong

_WIDTH = 13


def run(options: argparse.Namespace) -> int:
    """Print the answer. Returns an exit code. Raises UsageError for one that none takes."""
    for name, text in answer(options.folder):
        sys.stdout.write(f"{name:{_WIDTH}} {text}\n")
        sys.stdout.flush()
    return int(ExitCode.PASS)


def answer(folder: Path) -> Iterator[tuple[str, str]]:
    """What is known of a folder, a line each: what it is about, and what is said. Raises UsageError."""
    place = megatron_folder(folder) if folder.is_dir() and next(folder.glob("*.safetensors"), None) is None else None
    if place is not None:
        yield from _megatron(folder, place)
        return
    config = read_config(folder)
    yield from _described(config, folder)
    found, model = described(config, str(folder)), from_hf_config(config, str(folder))
    held = stored(folder)
    yield from _files(model, held)
    how = quantised(found.config if "quantization_config" in found.config else config, held)
    yield "quantised", how.said
    quantisation = found.config.get("quantization_config", config.get("quantization_config"))
    told = list(wrong(odd.with_mtp(found, model, held), held, quantisation))
    yield from (("odd", sentence) for sentence in list(odd.odd(found, model, held, told)) or ["nothing"])
    # Without its MTP layers a model may be whole that is not with them.
    whole = held.is_one_model and not (told and list(wrong(model, held, quantisation)))
    yield from ways(folder, model, how, Whole(whole, whole and not told), machine.available_memory())


def _described(config: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """The family and the sizes that config.json names. Raises UsageError."""
    found = described(config, str(folder))
    yield "family", f"{found.family.title} (model_type {found.family.model_type}), compared with {found.family.reference}"
    model = from_hf_config(config, str(folder))
    check_numbers(model, str(folder))
    yield "model", _sizes(model, found)


def _megatron(folder: Path, place: Path) -> Iterator[tuple[str, str]]:
    """What the files of a Megatron checkpoint tell. Which model it is, its HuggingFace folder says."""
    yield "format", f"a Megatron checkpoint, {megatron.form(place)}"
    yield "checkpoint", megatron.which(folder, place)
    yield "files", megatron.files(place)
    yield from (("odd", sentence) for sentence in list(megatron.odd(folder, place)) or ["nothing"])
    load = f"{tree.VALIDATION} convert --to-hf --load {shlex.quote(str(folder))}"
    if (folder / "config.json").is_file():  # that Plumbline has written beside it
        yield from _described(read_config(folder), folder)
        yield "works", f"{load} --save OUT"
    else:
        yield "needs", "config.json of the HuggingFace model, in DIR"
        yield "works", f"{load} --hf-model-path DIR --save OUT"
    run = f"{tree.VALIDATION} run --hf-model-path DIR --candidate-checkpoint {shlex.quote(str(folder))}"
    yield ("on GPUs", f"{run} --implementation te") if megatron.of_te(place) else ("works", run)


def _sizes(model: Model, found: Described) -> str:
    experts = f"{many(model.n_routed_experts, 'expert')}, {model.num_experts_per_tok} of a token"
    if model.n_group > 1 and model.topk_method != "greedy":
        experts += f" from {model.topk_group} of {many(model.n_group, 'group')}"
    mtp: Mapping[str, Any] = found.config
    layers = f"{many(model.num_hidden_layers, 'layer')} ({len(model.dense_layers)} without experts)"
    latents = f"latents {model.q_lora_rank or 'none'} and {model.kv_lora_rank}"
    more = f", {mtp['num_nextn_predict_layers']} MTP" if mtp.get("num_nextn_predict_layers") else ""
    sparse = (
        f", {many(model.index_topk or 0, 'key')} of a query by {many(model.index_n_heads or 0, 'index head')}"
        if model.sparse
        else ""
    )
    return (
        f"{layers}{more}, hidden {model.hidden_size}, {many(model.num_attention_heads, 'head')}, {latents}{sparse}, {experts}, "
        f"{model.n_shared_experts} shared, vocabulary {model.vocab_size}, rope {model.rope_type}, "
        f"epsilon {model.rms_norm_eps:g}"
    )


def _files(model: Model, held: Stored) -> Iterator[tuple[str, str]]:
    count = sum(math.prod(parameter.shape) for parameter in parameters(model).values())
    yield "parameters", f"{_count(count)} by config.json, without MTP layers"
    kinds = ", ".join(f"{tensors} {dtype}" for dtype, tensors in held.dtypes.items())
    yield "tensors", f"{len(held.tensors)} in {many(len(held.files), 'file')}, {held.size / 2**30:.2f} GiB: {kinds or 'none'}"


def _count(number: int) -> str:
    for size, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number / size:.1f} {word}"
    return str(number)

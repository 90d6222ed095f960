"""Trains a step and saves as Megatron-LM does with `--ckpt-format torch`: its own arguments, padding and `save_checkpoint`.

python -m tests.convert.trained_by_megatron_lm HF OUT PORT LAYOUT RANK

Needs Megatron-LM's package `megatron.training`, which a checkout has, and since 0.17 megatron-core's wheel, too.
"""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import typing_extensions

MULTIPLE = 64
"""What the vocabulary is padded to a multiple of, times tp."""


def main(hf: str, out: str, port: str, layout: str, rank: str) -> None:
    """One rank of a layout. The step's learning rate is 0, so that the weights are those of the folder HF."""
    from validation.candidate import platform

    platform.install("gloo")
    with platform.unused_kernels():
        from validation.candidate import build

        _suit_older_pythons()
        from megatron.training import checkpointing, global_vars
        from megatron.training.arguments import parse_args
    platform.mend(on_cpu=True)
    from validation.candidate.optimizer import Optimizer
    from validation.compare.precision import computing_in

    case = _case(hf, layout)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port, RANK=rank, WORLD_SIZE=str(case.layout.ranks))
    dist.init_process_group("gloo")
    sys.argv[1:] = _words(case, out)
    args = parse_args()
    args.padded_vocab_size = _padding()(case.model.vocab_size, args)
    args.consumed_train_samples = args.consumed_valid_samples = 0
    args.use_dist_ckpt = False  # as validate_args says of this format
    global_vars.set_args(args)
    case = replace(case, model=replace(case.model, padded_vocab_size=args.padded_vocab_size))
    with computing_in("bf16", platform.CudaMeansCpu):
        build.start_groups(case)
        chunks = _filled(build, case, hf)
        optimizer = Optimizer(case, build.wrap(chunks, case))
        optimizer.step()
        vars(torch.cuda)["get_rng_state"] = torch.get_rng_state
        checkpointing.save_checkpoint(1, chunks, optimizer.theirs, optimizer.scheduler, 0)
    dist.destroy_process_group()


def _suit_older_pythons() -> None:
    """Megatron-LM since 0.18 wants a name of Python 3.12, and 0.16 a package for a tokenizer that nothing here uses."""
    vars(typing).setdefault("override", typing_extensions.override)
    if find_spec("six") is None:
        sys.modules["six"] = ModuleType("six")


def _padding() -> Callable[..., int]:
    """Megatron-LM's own rule for the padded vocabulary. 0.17 moved it."""
    try:
        from megatron.core.tokenizers.utils.build_tokenizer import vocab_size_with_padding
    except ImportError:
        from megatron.training.tokenizer.tokenizer import _vocab_size_with_padding as vocab_size_with_padding
    found: Callable[..., int] = vocab_size_with_padding
    return found


def _words(case: Any, out: str) -> list[str]:
    """The launch script's, as far as a checkpoint's reader or saver looks."""
    layout, model = case.layout, case.model
    return [
        *("--num-layers", str(model.num_hidden_layers), "--hidden-size", str(model.hidden_size)),
        *("--num-attention-heads", str(model.num_attention_heads), "--num-experts", str(model.n_routed_experts)),
        *("--vocab-size", str(model.vocab_size), "--make-vocab-size-divisible-by", str(MULTIPLE)),
        *("--tensor-model-parallel-size", str(layout.tp), "--pipeline-model-parallel-size", str(layout.pp)),
        *("--expert-model-parallel-size", str(layout.ep), "--expert-tensor-parallel-size", str(layout.expert_tp)),
        *("--micro-batch-size", "1", "--seq-length", "32", "--max-position-embeddings", "32", "--bf16"),
        *("--multi-latent-attention", "--untie-embeddings-and-output-weights", "--ckpt-format", "torch", "--save", out),
    ]


def _case(hf: str, layout: str) -> Any:
    from validation.case.case import Case
    from validation.case.folder import model_from_folder
    from validation.case.layout import Layout
    from validation.case.training import Training

    training = Training(steps=1).with_settings({"optimizer.lr": 0.0, "optimizer.min_lr": 0.0})
    parsed = Layout.parse(layout)
    return Case("tiny", model_from_folder(hf), parsed, "bf16", "local", "gloo", 1, 2 * parsed.ranks, 1, 32, training=training)


def _filled(build: Any, case: Any, hf: str) -> Any:
    """The model with the folder's weights, and 7 in the rows of padding, which training changes, too."""
    from validation.candidate import load
    from validation.candidate.recorder import Recorder
    from validation.reference.checkpoint import Checkpoint

    chunks, recorder = build.build(case), Recorder(int(os.environ["RANK"]))
    held, weights = load.held_by(chunks, case.model, recorder), Checkpoint.open(hf, case.model)
    load.load(chunks, recorder, lambda: load.copy_weights(held, weights))
    tp = int(os.environ["RANK"]) % case.layout.tp
    for name, parameter in chunks[0].named_parameters():
        if "word_embeddings" in name or "output_layer" in name:
            first = max(0, case.model.vocab_size - tp * parameter.shape[0])
            torch.nn.init.constant_(parameter.data[first:], 7.0)
    return chunks


if __name__ == "__main__":
    main(*sys.argv[1:])

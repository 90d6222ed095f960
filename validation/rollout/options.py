"""The options of `logprobs`. No torch."""

from __future__ import annotations

from typing import Any

from validation.case import tree
from validation.case.case import PRECISIONS
from validation.case.empty import given
from validation.rollout.dump import PROCESSED, RAW
from validation.run.command_line import add_format

EXAMPLES = f"""examples:
  {tree.VALIDATION} logprobs rollout.jsonl --hf-model-path DIR
  {tree.VALIDATION} logprobs rollout.jsonl --hf-model-path DIR --layout tp2 --candidate-checkpoint OUT
  {tree.VALIDATION} logprobs rollout.safetensors --hf-model-path DIR --earlier-hf-model-path BEFORE"""
TEXTS = (
    *("hf_model_path", "candidate_checkpoint", "layout", "precision", "megatron_path"),
    *("transport", "implementation", "earlier_hf_model_path", "weights", "results", "mode", "engine_precision"),
)


def add_command(commands: Any, **parsing: Any) -> None:
    """Add `logprobs` to the commands of `python -m validation`."""
    found = commands.add_parser(
        "logprobs", help="a rollout engine's log-probabilities against HuggingFace and Megatron", epilog=EXAMPLES, **parsing
    )
    add = found.add_argument
    add(
        "file",
        type=given,
        metavar="FILE",
        help="Plumbline's own format, or what vLLM, SGLang, verl or slime leave (docs/logprobs.md)",
    )
    add("--hf-model-path", required=True, metavar="DIR", help="the HuggingFace folder with the weights that the engine ran")
    add("--layout", metavar="LAYOUT", help="have Megatron compute the same tokens under this layout, such as tp2")
    add("--stream", action="store_true", help="hold one layer of the HuggingFace model at a time, however large it is")
    add(
        "--transport",
        metavar="WORD",
        help="nccl or staged: HuggingFace and Megatron compute on GPUs (default gloo, on the CPU)",
    )
    add("--candidate-checkpoint", metavar="DIR", help="Megatron's weights, if they are not those of the HuggingFace folder")
    add("--precision", choices=PRECISIONS, help="what Megatron computes in (default fp64)")
    add("--implementation", metavar="WORD", help="Megatron's layers: local (default), or te for Transformer Engine's on GPUs")
    add("--megatron-path", metavar="DIR", help="a checkout with megatron/core, instead of the installed one")
    add("--earlier-hf-model-path", metavar="DIR", help="weights of an earlier step: are the log-probabilities theirs?")
    add("--mode", metavar="MODE", help=f"{RAW} or {PROCESSED}, for files of engines and trainers, which do not say it")
    add("--temperature", type=float, metavar="T", help=f"what tokens were drawn with; needed for {PROCESSED}")
    add("--engine-precision", metavar="WORD", help="what the engine computes in, such as bf16 or fp8")
    add("--weights", metavar="VERSION", help="refuse a file that was made with another version of the weights")
    add("--results", metavar="DIR", help="write JUnit XML there")
    add_format(add)

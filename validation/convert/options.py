"""The options of `convert` and `compare`. No torch."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any

from validation.case import tree
from validation.case.case import IMPLEMENTATIONS
from validation.case.empty import given, refuse_empty
from validation.machine import cores
from validation.run.command_line import add_format, whole

JOBS = min(32, cores() + 2)
"""Two more than CPUs: a process that has written a file waits until it is on the disk."""
COMMANDS = {
    "convert": ("hf_model_path", "load", "save", "layout", "layers", "megatron_core"),
    "compare": ("hf_model_path", "results"),
}
"""Each with its options that take a text of any kind."""
FORMATS = ("torch_dist", "legacy")
DTYPES = ("bf16", "fp16", "fp32", "fp64")
CONVERT_EXAMPLES = f"""examples:
  {tree.VALIDATION} convert --hf-model-path DIR --save OUT --layout tp2pp2
  {tree.VALIDATION} convert --hf-model-path DIR --save OUT --layers 0,1,60 --format legacy
  {tree.VALIDATION} convert --to-hf --load OUT --save BACK

a conversion that was interrupted goes on when the same command is given again"""
COMPARE_EXAMPLES = f"""examples:
  {tree.VALIDATION} compare DIR OUT
  {tree.VALIDATION} compare OUT BACK --results results"""


def add_commands(commands: Any, **parsing: Any) -> None:
    """Add both commands to the parsers of `python -m validation`."""
    _add_convert(
        commands.add_parser(
            "convert", help="HuggingFace folder to Megatron checkpoint and back", epilog=CONVERT_EXAMPLES, **parsing
        )
    )
    _add_compare(
        commands.add_parser("compare", help="two checkpoint folders, tensor by tensor", epilog=COMPARE_EXAMPLES, **parsing)
    )


def run(options: argparse.Namespace) -> int:
    """The command that the options are of; returns its exit code. What it needs is imported only now. Raises UsageError."""
    refuse_empty(options, COMMANDS[options.command])
    # Before torch is imported: the processes that are forked must find no threads that they do not have.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    command: Any = importlib.import_module(f"validation.convert.{options.command}")
    code: int = command.run(options)
    return code


def _add_convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--hf-model-path",
        metavar="DIR",
        help="a HuggingFace folder: what is converted, or with --to-hf where config.json is taken from",
    )
    add("--load", metavar="DIR", help="what is converted with --to-hf: a Megatron checkpoint, or a HuggingFace folder in fp8")
    add("--save", metavar="DIR", required=True, help="the folder that is written; it must not exist")
    add("--to-hf", action="store_true", help="write a HuggingFace folder")
    add(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="torch_dist, which any layout loads, or legacy: a file for each rank (default torch_dist)",
    )
    add(
        "--layout",
        default="single",
        metavar="tp2pp2",
        help="the layout: the ranks of the legacy format, how torch_dist is cut (default single); tp2+vocab128 pads the "
        "vocabulary to a multiple of 128 x tp",
    )
    add("--layers", default=None, metavar="0,1,60", help="take only these layers, and the MTP layers")
    add("--no-mtp", action="store_true", help="leave out the layers of multi-token prediction")
    add(
        "--dtype",
        choices=DTYPES,
        default=None,
        help="cast weights (default: as they are; fp8 becomes bf16). The expert bias is never cast",
    )
    add("--implementation", choices=IMPLEMENTATIONS, default="te", help="whose names the tensors get (default te)")
    add(
        "--megatron-core",
        metavar="VERSION",
        default=None,
        help="the release that loads a legacy checkpoint, for 0.17 renamed a module of MTP layers (default: the installed one)",
    )
    add(
        "--jobs",
        type=whole,
        default=JOBS,
        metavar="N",
        help="processes that write and wait for the disk (default: CPUs + 2, at most 32)",
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", type=given, metavar="A", help="a checkpoint folder: HuggingFace, torch_dist or legacy")
    add("b", type=given, metavar="B", help="the one that it is compared with")
    add("--hf-model-path", metavar="DIR", help="where config.json is taken from for a Megatron checkpoint without one")
    add("--no-mtp", action="store_true", help="leave out the layers of multi-token prediction")
    add("--results", metavar="DIR", help="write JUnit XML there")
    add_format(add)
    add(
        "--jobs",
        type=whole,
        default=cores(),
        metavar="N",
        help="processes that compare (default: one for each CPU)",
    )

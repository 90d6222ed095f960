"""The options of `plan`, as they are declared. Imports no package: the doctor runs without any."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from validation.case.empty import given_path
from validation.case.strangers import quoted

_MOST = 1 << 40
SHOWN = 5


def add_command(commands: Any) -> None:
    """Add `plan` to the commands of `python -m validation`."""
    found = commands.add_parser(
        "plan", help="layouts that fit on so many GPUs, their memory, and what stands for each on a CPU"
    )
    add = found.add_argument
    add("--model", metavar="MODEL", help="deepseek-v3, a preset, or a folder with config.json; a recipe may say it")
    add("--set", dest="numbers", action="append", default=[], metavar="NAME=VALUE", help="override a number of the model")
    add("--mtp", type=_count, metavar="N", help="MTP layers (default: as many as config.json or the recipe says)")
    add("--gpus", type=_count, required=True, metavar="N", help="how many GPUs train")
    add("--gpu-memory", type=_amount, default=80.0, metavar="GIB", help="of one GPU (default 80)")
    add("--gpus-per-node", type=_count, default=8, metavar="N", help="tensor parallelism stays inside a node (default 8)")
    add(
        "--reserve",
        type=_amount,
        default=6.0,
        metavar="GIB",
        help="of each GPU's memory, for what is not counted: CUDA, NCCL, workspaces, fragments (default 6, a guess)",
    )
    add("--seq-length", type=_count, metavar="N", help="tokens of a sequence (default: the recipe's, else 4096)")
    add("--micro-batch-size", type=_count, metavar="N", help="sequences of one forward pass (default: the recipe's, else 1)")
    add("--global-batch-size", type=_count, metavar="N", help="sequences of a step, which a layout must divide")
    add(
        "--imbalance",
        type=_amount,
        default=1.0,
        metavar="X",
        help="rows of the fullest rank's experts over the mean (default 1)",
    )
    add(
        "--recipe",
        type=given_path,
        metavar="FILE",
        help="what you train with: its layout is shown first, its settings decide memory",
    )
    add("--layout", metavar="LAYOUT", help="show this one, whether it fits or not, such as tp2pp8ep32")
    add("--show", type=_count, default=SHOWN, metavar="N", help=f"how many layouts (default {SHOWN}); JSON has all")
    add("--format", choices=("text", "json"), default="text", help="json writes one JSON document (docs/json.md)")


def _count(text: str) -> int:
    """A whole number of an option. Raises argparse's error, with which it ends in a sentence."""
    if not re.fullmatch(r"[0-9]{1,12}", text.strip()):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no whole number from 0 with at most 12 digits")
    return int(text)


def _amount(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < _MOST:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no number from 0")
    return found

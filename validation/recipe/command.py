"""`recipe`: what people train with, read and shown."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from validation.case.errors import ExitCode, UsageError
from validation.recipe import full, parser, read, show
from validation.recipe.recipe import Recipe
from validation.recipe.standin import stand_in


def add_command(commands: Any, formatter_class: Any) -> None:
    """Add `recipe` with its two commands to those of `python -m validation`."""
    recipe = commands.add_parser("recipe", help="what a launch script trains", formatter_class=formatter_class)
    two = recipe.add_subparsers(dest="recipe_command", required=True, metavar="command")
    shown = two.add_parser("show", help="what a file says: model, layout, settings, and the flags that are not known")
    shown.add_argument("file", type=Path, metavar="FILE", help="flags, model_config.yaml, or Megatron-Bridge's YAML")
    shown.add_argument("--release", choices=parser.releases(), help="whose defaults count where a flag is not given")
    shown.add_argument(
        "--megatron-path", type=Path, metavar="DIR", help="a checkout of Megatron-LM, whose parser reads the flags"
    )
    shown.add_argument("--world-size", type=int, metavar="N", help="how many ranks train, where the file does not say it")


def run(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Run the command that was asked for; `words` stood behind `--`. Returns an exit code."""
    if words:
        raise UsageError("recipe show takes one file and nothing behind --; leave it out")
    if options.world_size is not None and options.world_size < 1:
        raise UsageError(f"--world-size {options.world_size}: at least one rank trains; give a number from 1")
    found = read.read(options.file, options.release, options.megatron_path, options.world_size)
    sys.stdout.write(show.text(found) + _small(found))
    return int(ExitCode.PASS)


def _small(found: Recipe) -> str:
    """The stand-in for a recipe as lines, or why there is none."""
    try:
        said = stand_in(full.of(found)).describe()
    except UsageError as error:
        said = f"nothing: {error}"
    return textwrap.indent(said, "  ").join(["\nwhat stands for it on a CPU\n", "\n"])

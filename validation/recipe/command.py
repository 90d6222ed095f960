"""`recipe`: what people train with, read and shown."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from validation.case.errors import ExitCode, UsageError
from validation.recipe import full, read, show
from validation.recipe.recipe import Recipe
from validation.recipe.standin import stand_in


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

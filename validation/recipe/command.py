"""`recipe`: what people train with, read and shown."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from validation.case import tree, writing
from validation.case.errors import ExitCode, UsageError
from validation.recipe import capture, parser, read, show

_USAGE = f"{tree.VALIDATION} recipe capture [-o FILE] [--call N] -- COMMAND ..."


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
    taken = two.add_parser("capture", help="run a launch script with stand-ins for what would train", usage=_USAGE)
    taken.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the flags here (default: standard output)")
    taken.add_argument("--call", type=int, metavar="N", help="which one, where the script starts several trainings")
    taken.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds for the script (default 120)")


def run(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Run the command that was asked for; `words` stood behind `--`. Returns an exit code."""
    return _capture(options, words) if options.recipe_command == "capture" else _show(options, words)


def _capture(options: argparse.Namespace, words: Sequence[str]) -> int:
    if not words:
        raise UsageError(f"recipe capture needs the command that starts your training: {_USAGE}")
    if not 0 < options.timeout < 1e6:
        raise UsageError(f"--timeout {options.timeout}: give seconds above 0")
    if options.output:
        writing.check_file(options.output, "--output")
    script = shlex.join(words)
    captured = capture.capture(words, options.timeout)
    call = capture.chosen(captured, options.call, script)
    text = capture.written(call, captured, script)
    if not options.output:
        sys.stdout.write(text)
    else:
        writing.write(options.output, text)
        sys.stdout.write(f"{options.output}: {len(call.command.words)} words of {call.command.program or call.words[0]}\n")
    if captured.code:
        sys.stderr.write(f"warning: the script ended with {captured.code}, behind the training: {captured.last}\n")
    return int(ExitCode.PASS)


def _show(options: argparse.Namespace, words: Sequence[str]) -> int:
    if words:
        raise UsageError("recipe show takes one file and nothing behind --; leave it out")
    if options.world_size is not None and options.world_size < 1:
        raise UsageError(f"--world-size {options.world_size}: at least one rank trains; give a number from 1")
    found = read.read(options.file, options.release, options.megatron_path, options.world_size)
    sys.stdout.write(show.text(found))
    return int(ExitCode.PASS)

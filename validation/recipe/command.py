"""`recipe`: what people train with, read and shown."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Sequence

from validation.case import tree, writing
from validation.case.errors import ExitCode, UsageError
from validation.case.plural import many
from validation.case.strangers import shown
from validation.recipe import capture, documents, full, read, show
from validation.recipe.options import USAGE
from validation.recipe.recipe import Recipe
from validation.recipe.standin import stand_in


def run(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Run the command that was asked for; `words` stood behind `--`. Returns an exit code."""
    return _capture(options, words) if options.recipe_command == "capture" else _show(options, words)


def _capture(options: argparse.Namespace, words: Sequence[str]) -> int:
    if not words:
        raise UsageError(f"recipe capture needs the command that starts your training: {USAGE}")
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
        sys.stdout.write(
            f"{options.output}: {many(len(call.command.words), 'word')} of {call.command.program or call.words[0]}\n"
        )
        sys.stdout.write(f"compare it: {tree.VALIDATION} run --recipe {shlex.quote(str(options.output))}\n")
    if captured.absent:
        sys.stderr.write(f"warning: the script {capture.lacks(captured)}\n")
    if computed := [one.command for one in captured.calls if one.kind == "python" and not one.fields]:
        sys.stderr.write(
            f"warning: the script calls {shown(computed[0].program)}, which was not run; if a flag depends on what it prints, "
            "write that into the script\n"
        )
    if captured.code:
        sys.stderr.write(f"warning: the script ended with {captured.code}, behind the training: {captured.last}\n")
    return int(ExitCode.PASS)


def _show(options: argparse.Namespace, words: Sequence[str]) -> int:
    if words:
        raise UsageError("recipe show takes one file and nothing behind --; leave it out")
    found = read.read(options.file, options.release, options.megatron_path, options.world_size)
    sys.stdout.write(show.text(found) + _small(found))
    return int(ExitCode.PASS)


def _small(found: Recipe) -> str:
    """The stand-in for a recipe as lines, or why there is none."""
    try:
        small, shape, _ = documents.fitted(stand_in(full.of(found)), found)
        said = "\n".join(filter(None, (small.describe(), documents.said(shape))))
    except UsageError as error:
        said = f"nothing: {error}"
    return textwrap.indent(said, "  ").join(["\nwhat stands for it on a CPU\n", "\n"])

"""`python -m validation`: run cases, convert and compare checkpoints, score the checks, look at the machine.

What a command needs is imported when it is asked for: a Python without the packages is told so, and the doctor needs none.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from validation import doctor
from validation.case import exhausted, interpreter, packages, writing
from validation.case.errors import PlumblineError
from validation.convert import options as conversion
from validation.run.options import Given, add_options, settings

_EXAMPLES = """examples:
  python -m validation run --layouts single,tp2,pp2
  python -m validation run --tp 2 --pp 1 --batch-size 2 --seq-length 512 --hf-model-path DIR --debug
  python -m validation run --preset mini --tp 2 --set num_layers=4 --precision fp32
  python -m validation run --tp 2 --plugin my_patch.py
  python -m validation faults --only A
  python -m validation convert --hf-model-path DIR --save OUT --layout tp2pp2
  python -m validation doctor

what comes after -- goes to pytest: python -m validation run --tp 2 -- -k mla -x

exit codes: 0 pass, 1 a check failed or the code raised, 2 wrong usage or impossible case, 3 something is missing,
4 the run broke, 130 interrupted"""

_UNWANTED = ("cacheprovider", "logging", "warnings", "unraisableexception", "threadexception", "faulthandler", "pastebin")
"""Plugins of pytest that watch the code of a test. A check only reads numbers, and there are thousands."""


def _parser() -> argparse.ArgumentParser:
    from validation.scorecard import command as scorecard

    parser = argparse.ArgumentParser(
        prog="python -m validation",
        description="Does the Megatron-Core model compute what the HuggingFace model computes, under your parallel layout?",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="compare, probe by probe", epilog=_EXAMPLES, formatter_class=parser.formatter_class)
    add_options(run.add_argument)
    run.add_argument("--timeout", dest="case_timeout", type=float, metavar="SECONDS", help="the same as --case-timeout")
    run.add_argument("--debug", dest="pieces", action="store_true", help="the same as --pieces")
    faults = commands.add_parser("faults", help="put every known fault into the ranks; each must be seen")
    scorecard.add_options(faults.add_argument)
    conversion.add_commands(commands, formatter_class=parser.formatter_class)
    commands.add_parser("doctor", help="what is here, and what each missing piece prevents", add_help=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (validation.case.errors.ExitCode)."""
    interpreter.settle()
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours, pytests = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    try:
        if given[:1] == ["doctor"]:
            return doctor.main(given[1:])
        with exhausted.in_a_sentence(), packages.asked_for(packages.NEEDED, "cpu"):
            options = _parser().parse_args(ours)
            said = shlex.join(["python", "-m", "validation", *given])
            return _COMMANDS[options.command](options, pytests, said)
    except PlumblineError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)


def _convert(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    return conversion.run(options)


def _faults(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.scorecard.command import run

    return int(run(options, command))


def _run(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.faults.plan import plan_of
    from validation.run.prepare import prepare

    wanted = settings(options, command)
    if wanted.manifest:
        writing.check_file(wanted.manifest, "--manifest")
    else:
        prepare(wanted, [plant.case for plant in plan_of(wanted).plants])

    # What is wrong has been said by now, and the fork server imports while pytest is.
    import pytest

    from validation.checks.ended import Ended

    checks = Path(__file__).parent / "checks"
    unwanted = [word for plugin in _UNWANTED for word in ("-p", f"no:{plugin}")]
    arguments = [str(checks), *unwanted, "--capture=no", "--rootdir", str(checks.parents[1]), *pytests]
    ended = Ended()
    return int(ended.code(pytest.main(arguments, plugins=[Given(wanted), ended])))


_COMMANDS = {"run": _run, "faults": _faults, **dict.fromkeys(conversion.COMMANDS, _convert)}

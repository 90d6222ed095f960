"""`python -m validation`: run cases, read recipes, convert and compare checkpoints, score the checks, look at the machine.

What a command needs is imported when it is asked for: a Python without the packages is told so, and the doctor needs none.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from validation.case import document, exhausted, interpreter, packages, surroundings, tree, writing
from validation.case.errors import ExitCode, PlumblineError, UsageError
from validation.case.parsing import Parser, add_version, describe
from validation.case.strangers import one_line
from validation.checks.before import ASIDE
from validation.checks.progress import Progress
from validation.run.command_line import VERDICT, add_grouped
from validation.run.options import Given, Settings, settings

if TYPE_CHECKING:
    from validation.run.ahead import Question
    from validation.run.nodes.leading import Nodes

_RUNS = f"""examples:
  {tree.VALIDATION} run --layouts single,tp2,pp2
  {tree.VALIDATION} run --tp 2 --pp 1 --batch-size 2 --seq-length 512 --hf-model-path DIR --debug
  {tree.VALIDATION} run --preset mini --tp 2 --set num_layers=4 --precision fp32
  {tree.VALIDATION} run --tp 2 --plugin my_patch.py
  {tree.VALIDATION} run --recipe flags.txt"""
_OTHERS = f"""
  {tree.VALIDATION} recipe capture -o flags.txt -- bash run.sh
  {tree.VALIDATION} faults --only A
  {tree.VALIDATION} convert --hf-model-path DIR --save OUT --layout tp2pp2
  {tree.VALIDATION} plan --model deepseek-v3 --gpus 256
  {tree.VALIDATION} inspect DIR
  {tree.VALIDATION} fields model.moe_permute_fusion
  {tree.VALIDATION} slurm run --nodes 2 -- --layouts tp2pp2
  {tree.VALIDATION} data --preset mini --layout tp4
  {tree.VALIDATION} logprobs rollout.jsonl --hf-model-path DIR
  {tree.VALIDATION} doctor"""
_CODES = f"""

what comes after -- goes to pytest: {tree.VALIDATION} run --tp 2 -- -k mla -x

exit codes: 0 pass, 1 a check failed or the code raised, 2 wrong usage or impossible case, 3 something is missing,
4 the run broke, 130 interrupted"""


_OF_NAMES = (["inspect"], ["fields"], ["logprobs"], ["compare"], ["recipe", "show"])
"""Commands that take names of files or fields, and run nothing with what stands behind `--`."""
_OF_WORDS = ("run", "slurm", "recipe")
"""Those that do something with it."""
_WITH_CHECKS = {
    "faults": ("validation.scorecard.command", "put every known fault into the ranks; each must be seen"),
    "pairs": ("validation.pairwise.command", "run cases that hold every pair of switches and degrees"),
    "exercised": ("validation.scorecard.exercised", "measure which switches have an effect in small cases on the CPU"),
    "tried": ("validation.scorecard.tried", "try switches that need a GPU or Transformer Engine on this machine"),
}
"""Commands with the module that has their options, and their help. Each imports pytest and all checks: 0.15 s."""
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
"""What no file can be called, or can be found under."""


def _parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, or for these words: the options of a command that none of them names may be missing.

    Whoever asks for help is told of packages that a command lacks.
    """
    parser = Parser(
        prog=tree.VALIDATION,
        description="Does the Megatron-Core model compute what the HuggingFace model computes, under your parallel layout?",
        epilog=_RUNS + _OTHERS + _CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser(
        "run",
        help="compare, probe by probe",
        usage=f"{tree.VALIDATION} run [options] [-- pytest's options]",
        epilog=_RUNS + _CODES,
        formatter_class=parser.formatter_class,
    )
    add_grouped(run)
    if words is None or words[:1] != ["run"]:
        _add_others(commands, parser, words)
    describe(commands)
    return parser


def _add_others(commands: Any, parser: Parser, words: Sequence[str] | None) -> None:
    """All commands but `run`, which imports none of their modules: torch's import waits for its options to be read."""
    from validation import data_command, field_command
    from validation.convert import options as conversion
    from validation.inspection import options as inspection
    from validation.plan import options as planning
    from validation.recipe import options as recipes
    from validation.rollout import options as rollout
    from validation.run.nodes import command as slurm

    for name, (module, help_) in _WITH_CHECKS.items():
        command = commands.add_parser(name, help=help_)
        if words is None or not {name, "-h", "--help"}.isdisjoint(words):
            importlib.import_module(module).add_options(command.add_argument)
    conversion.add_commands(commands, formatter_class=parser.formatter_class)
    recipes.add_command(commands, formatter_class=parser.formatter_class)
    planning.add_command(commands)
    field_command.add_command(commands)
    inspection.add_command(commands)
    data_command.add_command(commands)
    rollout.add_command(commands, formatter_class=parser.formatter_class)
    slurm.add_command(commands)
    commands.add_parser("doctor", help="what is here, and what each missing piece prevents", add_help=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (validation.case.errors.ExitCode)."""
    interpreter.settle()
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours = given[: given.index("--")] if "--" in given else given
    if given[:1] not in (["run"], ["compare"], ["plan"], ["logprobs"]) or not document.asked_for(ours):
        return _main(given, {})
    return document.of(given[0], lambda said: _main(given, said))


def _main(given: list[str], said: document.Document) -> int:
    """Run the command, which adds to the document; `error` is the sentence with which it ends before it starts."""
    ours, pytests = _parted(given)
    try:
        if given[:1] == ["doctor"]:
            from validation import doctor

            return doctor.main(given[1:])
        with packages.asked_for(packages.NEEDED, "cpu"), _nothing_old_in_its_place(ours), exhausted.in_a_sentence():
            options = _parser(ours).parse_args(ours)
            if pytests and options.command not in _OF_WORDS:
                raise UsageError(f"{options.command} takes nothing behind --; leave it out")
            options.document = said
            command = shlex.join([*tree.VALIDATION.split(), *given])
            return _COMMANDS.get(options.command, _convert)(options, pytests, command)
    except PlumblineError as error:
        said["error"] = one_line(str(error))
        print(f"error: {said['error']}", file=sys.stderr)
        return int(error.exit_code)
    except OSError as error:
        if error.errno not in _NO_PATH:
            raise
        said["error"] = f"{one_line(str(error.filename))}: {error.strerror}; give another path"
        print(f"error: {said['error']}", file=sys.stderr)
        return int(ExitCode.USAGE)


def _parted(given: list[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and those behind `--`. A command that takes names has these there, too."""
    if "--" not in given:
        return given, []
    ours, behind = given[: given.index("--")], given[given.index("--") + 1 :]
    named = ours[:1] in _OF_NAMES or ours[:2] in _OF_NAMES
    return ([*ours, *behind], []) if named and not any(word.startswith("-") for word in behind) else (ours, behind)


@contextmanager
def _nothing_old_in_its_place(words: Sequence[str]) -> Iterator[None]:
    """Whatever ends a `run` before it starts, results of earlier runs that it would have replaced are out of their place."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if words[:1] == ["run"] and not (isinstance(error, SystemExit) and error.code == ExitCode.PASS):
            _take_aside(words)
        raise
    finally:
        if said := ASIDE.told():
            print(said, flush=True)


def _take_aside(words: Sequence[str]) -> None:
    """Take what the command would have replaced out of its place; all reports of its folder if a package is missing."""
    try:
        from validation.checks import unstarted

        unstarted.ended(words[1:])
    except ImportError:
        surroundings.leave_nothing_old(list(words))


def _convert(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.convert import options as conversion

    return conversion.run(options)


def _exercised(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.scorecard import exercised

    return exercised.run(options, command)


def _tried(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.scorecard import tried

    return tried.run(options, command)


def _fields(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation import field_command

    return field_command.run(options)


def _inspect(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.inspection import command as inspection_command

    return inspection_command.run(options)


def _data(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation import data_command

    return data_command.run(options)


def _logprobs(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.rollout import command as rollout_command

    return rollout_command.run(options, command)


def _slurm(options: argparse.Namespace, words: list[str], command: str) -> int:
    from validation.run.nodes import command as slurm

    return slurm.run(options, words)


def _recipe(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.recipe import command as recipe

    return recipe.run(options, pytests)


def _plan(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.plan import command as plan

    return plan.run(options)


def _faults(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.scorecard.command import run

    return int(run(options, command))


def _pairs(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    from validation.pairwise.command import run

    return run(options, command)


def _run(options: argparse.Namespace, pytests: list[str], command: str) -> int:
    wanted = settings(options, command)
    if wanted.place.several:
        from validation.run.prepare import check_cases

        check_cases(wanted)  # what is wrong on every node is said by every node, before it waits for the others
    if wanted.place.follows:
        return _follow(options.document, wanted)
    from validation.run import early

    with early.importing(wanted):
        from validation.run.nodes import leading

        with leading.nodes_of(wanted) as (nodes, ending):
            ending.code = _lead(options, pytests, wanted, nodes)
    return int(ending.code)


def _follow(said: document.Document, wanted: Settings) -> int:
    """A node that another one leads: it ends as that does, which has the reports."""
    if wanted.manifest:
        _add_nothing(said)
        return int(ExitCode.PASS)
    from validation.run.nodes import leading
    from validation.run.prepare import prepare_to_follow

    code, sentence = leading.follow(wanted, prepare_to_follow, lambda line: print(line, flush=True))
    print(f"node 0 has ended with exit code {code}{': ' * bool(sentence)}{sentence}", flush=True)
    _add_nothing(said)
    if code != ExitCode.PASS:
        said["error"] = sentence or "node 0 has the reports"
    return code


def _lead(options: argparse.Namespace, pytests: list[str], wanted: Settings, nodes: Nodes) -> int:
    """Compare and judge; the exit code."""
    from validation.checks import unstarted

    failed: Mapping[str, Collection[str] | None] | None = None
    question: Question | None = None
    progress = Progress.on(sys.stdout, quiet=wanted.show == VERDICT)
    try:
        with progress.doing("getting ready: packages, devices, room, stored references"):
            if wanted.manifest:
                writing.check_file(wanted.manifest, "--manifest")
            else:
                failed = _failed(wanted)
                if failed is not None and all(titles == frozenset() for titles in failed.values()):
                    return _nothing_failed(options.document)
                ASIDE.take(unstarted.files(wanted))
                from validation.faults.plan import plan_of
                from validation.run.prepare import begin

                wanted, question = begin(wanted, [plant.case for plant in plan_of(wanted).plants])
                if pytests or wanted.place.several:
                    question.check()  # before pytest does what it is told, and before this node waits for others
                    question = None

            # The fork server imports while pytest is and lists the checks. Then the question is checked.
            from validation.checks import started
            from validation.checks.findings import Findings
        if wanted.place.several:
            with progress.doing(f"waiting for the other nodes, of {wanted.place.count}"):
                nodes.gather(wanted.timeout)
            print(*nodes.notes, sep="\n", end="\n" * bool(nodes.notes), flush=True)
        with progress.doing("listing the checks"):
            given = Given(wanted, tuple(pytests), failed, nodes, question)
            code = started.run(given, pytests, progress, Findings(options.document))
    finally:
        progress.close()
    _say_if_nothing_ran(options.document, wanted, code)
    if code == ExitCode.PASS:
        ASIDE.put_back()  # nothing was to be run, as with --collect-only
    return int(code)


def _say_if_nothing_ran(said: document.Document, wanted: Settings, code: int) -> None:
    """Whatever ended pytest, a document without checks is no pass. A manifest is all that its run was to make."""
    if "checks" in said:
        return
    if wanted.manifest and code == ExitCode.PASS:
        _add_nothing(said)
    elif code == ExitCode.PASS:
        said["verdict"] = "ERROR"
        said.setdefault("error", "no check was made: pytest was asked for something else; leave its options out")
    else:
        said.setdefault("error", "the checks were not run to their end; standard error says why")


def _failed(wanted: Settings) -> Mapping[str, Collection[str] | None] | None:
    """What failed before, if that is asked for. Raises UsageError."""
    if not wanted.last_failed:
        return None
    from validation.checks import selection, self_test
    from validation.faults.plan import plan_of

    plan = plan_of(wanted)
    return selection.failed_before(wanted, self_test.SelfTest(plan, wanted.cases[0]).name if plan.plants else "")


def _nothing_failed(said: document.Document) -> int:
    """The command has nothing to do, and says so. Reports stay as they are."""
    sys.stdout.write("Nothing failed before: no check is made (--last-failed)\n")
    _add_nothing(said)
    return int(ExitCode.PASS)


def _add_nothing(said: document.Document) -> None:
    """What the document has of a run that had no check to make."""
    said |= {"seconds": 0.0, "checks": 0, "counts": {}, "left_out": 0, "suites": []}


_COMMANDS = {
    "run": _run,
    "faults": _faults,
    "pairs": _pairs,
    "exercised": _exercised,
    "tried": _tried,
    "recipe": _recipe,
    "plan": _plan,
    "fields": _fields,
    "inspect": _inspect,
    "data": _data,
    "slurm": _slurm,
    "logprobs": _logprobs,
}
"""All others convert or compare checkpoints."""

"""`slurm`: options and what they do."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from validation.case import life, tree
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.run import options as run_options
from validation.run.command_line import whole
from validation.run.nodes import slurm, trainjob
from validation.run.nodes.place import MOST
from validation.run.options import Settings

RUN, SHOW, TRAINJOB = "run", "show", "trainjob"


def add_command(commands: Any) -> None:
    """Add `slurm run`, `slurm show` and `slurm trainjob`."""
    parser = commands.add_parser("slurm", help="run a comparison as a job on several nodes", usage=_usage("COMMAND"))
    ways = parser.add_subparsers(dest="way", required=True, metavar="COMMAND", prog=f"{tree.VALIDATION} slurm")
    helps = {
        RUN: "submit a job to Slurm, follow it, and bring its results back",
        SHOW: "print the file that `run` submits",
        TRAINJOB: "print the manifest of a Kubeflow TrainJob",
    }
    for way, said in helps.items():
        _add_options(ways.add_parser(way, help=said, usage=_usage(way)), way)


def _usage(way: str) -> str:
    return f"{tree.VALIDATION} slurm {way} [options] -- WORDS OF A RUN"


def _add_options(parser: argparse.ArgumentParser, way: str) -> None:
    add = parser.add_argument
    add("--nodes", type=whole, default=2, metavar="N", help="nodes of the job (default 2)")
    if way == TRAINJOB:
        add("--image", required=True, help="the container image that has Plumbline installed")
        add("--name", default="plumbline", help="the TrainJob's name (default plumbline)")
        add("--gpus-per-node", type=whole, default=0, metavar="N", help="GPUs of each node (default none)")
        add("--token-secret", default="", metavar="NAME", help="a secret whose key `token` holds the nodes' token")
        return
    add(
        "--sbatch", action="append", default=[], metavar="OPTION", help="an option for sbatch, such as --sbatch=--partition=gpu"
    )
    add(
        "--folder",
        default="plumbline-jobs",
        metavar="DIR",
        help="where jobs work; every node must see it (default plumbline-jobs)",
    )
    if way == RUN:
        add("--keep", action="store_true", help="keep the job's folder if the run passes, too")


def run(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Do it; the exit code. Raises UsageError, EnvironmentMissing and InfrastructureError."""
    if not 1 <= options.nodes <= MOST:
        raise UsageError(f"--nodes {options.nodes}: give 1 to {MOST}")
    wanted = _checked(words, options.nodes)
    if options.way == TRAINJOB:
        if not 0 <= options.gpus_per_node <= MOST:
            raise UsageError(f"--gpus-per-node {options.gpus_per_node}: give 0 to {MOST}")
        given = (options.image, options.name, options.gpus_per_node, options.token_secret)
        sys.stdout.write(trainjob.manifest(words, options.nodes, *given))
        return 0
    if options.way == SHOW:
        folder = Path(options.folder).absolute() / "job-NAME"
        sys.stdout.write(slurm.Job(tuple(words), options.nodes, _options(options), folder).text())
        return 0
    slurm.find()
    job = slurm.Job(tuple(words), options.nodes, _options(options), slurm.new_folder(Path(options.folder)))
    code = slurm.run(job, _say)
    count = slurm.bring_back(job, wanted.results)
    _say(f"{many(count, 'report')} in {wanted.results}")
    if code == 0 and not options.keep:
        shutil.rmtree(job.folder, ignore_errors=True)
    return code


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _checked(words: Sequence[str], nodes: int) -> Settings:
    """What the words of the run mean: what is wrong with them is said before the job waits. Raises UsageError."""
    if not words:
        raise UsageError(f"no words of a run; give them behind --, as in `{tree.VALIDATION} slurm run -- --layouts tp2`")
    if any(word.startswith(("--nnodes", "--node-rank", "--rdzv", "--cluster")) for word in words):
        raise UsageError(
            "the job says which node each machine is; leave --nnodes, --node-rank, --rdzv-endpoint and --cluster out"
        )
    from validation.case.preflight import RULES

    wanted = run_options.parsed([*words, "--cluster", "dsw"])
    for case in wanted.cases:
        if sentence := next(filter(None, (rule(case) for rule in RULES)), None):
            raise UsageError(sentence)
        if sentence := life.on_nodes(case.training.life, nodes):
            raise UsageError(f"{case.arrangement}: {sentence}")
    return wanted


def _options(options: argparse.Namespace) -> tuple[str, ...]:
    """Those for sbatch, each a line of its own. Raises UsageError."""
    for text in options.sbatch:
        if not text.startswith("-") or "\n" in text:
            raise UsageError(f"--sbatch {text!r}: give one option of sbatch, such as --sbatch=--partition=gpu")
    return tuple(options.sbatch)

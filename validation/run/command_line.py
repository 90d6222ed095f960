"""The options of `python -m validation run` and of `pytest validation/checks`, as they are declared, in groups. No torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from validation.cache import limit
from validation.case.case import DEFAULT_SEED, IMPLEMENTATIONS, PRECISIONS, TRANSPORTS
from validation.case.errors import UsageError
from validation.case.preset import PRESETS
from validation.case.strangers import quoted
from validation.case.training import OPTIONS, STREAM, WORDS, option
from validation.run.nodes.place import AUTO, CLUSTERS

Add = Callable[..., Any]
"""argparse's add_argument, or pytest's addoption."""

DEGREES = ("tp", "pp", "vpp", "ep", "etp", "cp", "dp")
DEGREE_HELP = {
    "tp": "tensor parallel",
    "pp": "pipeline parallel",
    "vpp": "virtual pipeline stages of a rank",
    "ep": "expert parallel",
    "etp": "expert tensor parallel",
    "cp": "context parallel",
    "dp": "data parallel",
}
OPTION_HELP = {
    "optimizer": "whether each data-parallel rank holds all of the optimizer's state or its share",
    "loss": "the mean over all tokens of a step, or the mean of each micro-batch's mean",
    "balancing": "the auxiliary loss that balances the experts",
    "recompute": "what the backward pass computes again instead of keeping it",
    "dispatcher": "how tokens reach their experts",
    "experts": "one matrix after the other, or all in one grouped product; default is what the implementation trains with",
    "mtp_loss": "what the reference divides the loss of an MTP layer by: the tokens of the main loss, as DeepSeek's report and "
    "megatron-core up to 0.16 do, the targets that the layer has left, as megatron-core does from 0.17 on and always with "
    "--loss mean, or what the tested version does",
    "data_shape": "what the sequences of a batch hold (docs/data.md): one document each; several, of which none "
    "attends to another, by a mask or packed; or one and padding behind or before it",
    "padding_logits": "whether the loss counts the logits of a vocabulary's padding, as every megatron-core does, or your "
    "model masks them (docs/data.md)",
    "inference": "prefill and decode instead of a training step (docs/inference.md), with megatron-core's static context, "
    "which --inference alone asks for",
    "fp8": "Transformer Engine's products in fp8, in a bf16 model: delayed has a scale a tensor, blockwise one a block",
}
_SHOWN_AS = {"--case-timeout": "--timeout", "--pieces": "--debug"}
"""Options whose own name pytest or a plugin of pytest has: `python -m validation run` shows the other, and takes both."""
ALL, VERDICT = "all", "verdict"
"""What `-v` and `-q` show."""
TEXT, JSON = "text", "json"
MAX_RANKS = 8
"""Processes on the CPU, unless somebody asks for more."""
_DIGITS = 30
"""Of a number on the command line; the largest that means anything has 19."""


class _Once(argparse.Action):
    """An option that a second one would take the place of, unseen."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        """Take the value. Raises UsageError if there is one already."""
        if getattr(namespace, self.dest) is not None:
            raise UsageError(f"{option} is given twice; give it once: a plugin may import another and call its functions")
        setattr(namespace, self.dest, values)


def whole(text: str) -> int:
    """A whole number of an option. Raises argparse's error, with which it ends in a sentence."""
    if not re.fullmatch(r"\s*[+-]?[0-9_]+\s*", text) or len(text) > _DIGITS:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no whole number of up to {_DIGITS} digits")
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no whole number") from None


def add_options(add: Add) -> None:
    """Add through `add` every option that pytest takes, too."""
    for group in GROUPS:
        group.declare(add)


def add_format(add: Add) -> None:
    """Add the option of every command that judges."""
    add(
        "--format",
        choices=(TEXT, JSON),
        default=TEXT,
        help="json writes one JSON document (docs/json.md) to standard output, and all else to standard error (default text)",
    )


def _add_telling(add: Add) -> None:
    """What pytest has own options for: those of `python -m validation run` alone."""
    add("-v", "--verbose", dest="show", action="store_const", const=ALL, default="", help="a line for every check")
    add("-q", "--quiet", dest="show", action="store_const", const=VERDICT, default="", help="the verdict alone")
    add_format(add)


def add_grouped(parser: argparse.ArgumentParser) -> None:
    """Add every option to the parser, under the headings of its help; an option with two names shows one."""
    for group in GROUPS:
        found = parser.add_argument_group(group.title, group.description)
        group.declare(_with_other_names(found.add_argument))
        if group.alone is not None:
            group.alone(found.add_argument)


def _with_other_names(add: Add) -> Add:
    def both(*names: str, **about: Any) -> None:
        (name,) = names
        if name in _SHOWN_AS:
            about = {**about, "dest": name.removeprefix("--").replace("-", "_")}
            add(_SHOWN_AS[name], **about)
            about["help"] = argparse.SUPPRESS
        add(name, **about)

    return both


def _add_model(add: Add) -> None:
    add("--preset", default=None, help=f"model size: {', '.join(PRESETS)} (default tiny)")
    add(
        "--hf-model-path",
        default=None,
        metavar="DIR",
        help="a HuggingFace checkpoint folder instead of a preset; with --recipe the numbers of its model",
    )
    add("--layers", default=None, metavar="0,1,3", help="take only these layers of the checkpoint")
    add("--set", dest="numbers", action="append", default=[], metavar="NAME=VALUE", help="override a number of the model")
    add(
        "--candidate-checkpoint",
        default=None,
        metavar="DIR",
        help="load Megatron's weights from this Megatron checkpoint, as `convert` writes it, instead of the reference's own",
    )
    add("--seed", type=whole, default=DEFAULT_SEED, help="seed of weights and tokens")


def _add_recipe(add: Add) -> None:
    add(
        "--recipe",
        default=None,
        metavar="FILE",
        help="what you train with (docs/recipes.md): flags of Megatron-LM, model_config.yaml, or Megatron-Bridge's YAML; the "
        "smallest model and layout that stand for it are compared, with its settings",
    )
    add("--world-size", type=whole, default=None, metavar="N", help="how many ranks train, if the recipe does not say it")


def _add_layouts(add: Add) -> None:
    add("--layouts", default=None, metavar="tp2,pp2", help="layouts to run, one after the other, with one reference")
    for degree in DEGREES:
        words = f"a single layout's degree: {DEGREE_HELP[degree]}"
        add(f"--{degree}", type=whole, default=None, metavar="N", help=words)


def _add_data(add: Add) -> None:
    add(
        "--data",
        default=None,
        metavar="FILE",
        help="the documents of a file instead of random tokens (docs/data.md): token ids as JSON lines (.jsonl), or Megatron's "
        "indexed data set (.idx, with its .bin beside it); text with a tokenizer, as JSON lines or a document a line (.txt)",
    )
    add(
        "--tokenizer",
        default=None,
        metavar="DIR",
        help="the HuggingFace folder whose tokenizer makes token ids of --data's text (default: that of --hf-model-path)",
    )
    add("--batch-size", type=whole, default=None, help="sequences of one step, over all data-parallel ranks")
    add("--micro-batch-size", type=whole, default=None, help="sequences of one forward pass")
    add("--seq-length", type=whole, default=None, help="tokens of one sequence")
    words = OPTIONS["data_shape"]
    add(option("data_shape"), default=None, choices=words, help=f"{OPTION_HELP['data_shape']} (default {words[0]})")


def _add_step(add: Add) -> None:
    add("--steps", type=whole, default=None, help="optimizer steps to compare (default 2 for tiny in fp64, else none)")
    for name, words in OPTIONS.items():
        if name != "data_shape":
            alone = {"nargs": "?", "const": words[1]} if name == "inference" else {}
            add(option(name), default=None, choices=words, help=f"{OPTION_HELP[name]} (default {words[0]})", **alone)
    add("--stream", action="store_true", default=False, help="compute both models layer by layer: the memory of one layer")
    add(
        "--isolated",
        action="store_true",
        default=False,
        help="give every module the reference's input and gradient, so that an error shows only in the module that makes it",
    )


def _add_settings(add: Add) -> None:
    add(
        "--config",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="set a field of megatron-core's configuration by its own name, such as model.moe_permute_fusion=true or "
        "ddp.overlap_grad_reduce=true (sections: model, ddp, optimizer, scheduler); repeatable",
    )


def _add_machine(add: Add) -> None:
    add("--precision", default=None, help=f"{', '.join(PRECISIONS)} (default fp64 on the CPU, fp32 on GPUs)")
    add(
        "--transport",
        default=None,
        help=f"{', '.join(TRANSPORTS)}: gloo runs on the CPU, nccl on a GPU a rank, staged on GPUs that ranks share, through "
        "host memory; staged-cpu takes the same way on the CPU (default gloo)",
    )
    add("--share-gpu", type=whole, default=None, metavar="N", help="let up to N ranks share each GPU, over transport staged")
    add(
        "--max-ranks",
        type=whole,
        default=MAX_RANKS,
        help=f"largest number of processes to start on the CPU (default {MAX_RANKS}, and as many as a recipe's stand-in has)",
    )
    add(
        "--jobs",
        type=whole,
        default=None,
        metavar="N",
        help="cases that run at the same time (default 2 for tiny on the CPU, and for tiny and mini on shared GPUs; else 1)",
    )
    add("--case-timeout", type=float, default=600.0, metavar="SECONDS", help="after which a case is killed (default 600)")
    add_cache_limit(add)
    add("--fresh", action="store_true", default=False, help="compute the reference again even if it is stored")


def _add_nodes(add: Add) -> None:
    add("--nnodes", type=whole, default=None, metavar="N", help="machines that run this command together (docs/nodes.md)")
    add("--node-rank", type=whole, default=None, metavar="N", help="the number of this machine; 0 leads and writes the reports")
    add("--rdzv-endpoint", default=None, metavar="HOST:PORT", help="where node 0 is, and a port that is free on it")
    add(
        "--cluster",
        default=AUTO,
        choices=CLUSTERS,
        help="whose variables say the same: dlc is a PyTorchJob, in which WORLD_SIZE counts nodes; dsw is one machine; auto "
        "takes those of torchrun, srun and Kubernetes if they speak of several nodes (default auto)",
    )


def _add_code(add: Add) -> None:
    add("--implementation", default="local", help=f"{', '.join(IMPLEMENTATIONS)} or your own package.module:function")
    add("--megatron-path", default=None, metavar="DIR", help="a checkout with megatron/core, instead of the installed one")
    add(
        "--plugin",
        action=_Once,
        default=None,
        metavar="FILE.py[:ARGUMENT]",
        help="run your own functions in every rank while it makes the model; a gate takes no results of such a run",
    )


def _add_checks(add: Add) -> None:
    add(
        "--self-test",
        action="store_true",
        default=False,
        help="plant one defect of each kind in small cases beside the others; each must be seen (default where CI is true)",
    )
    add("--no-self-test", action="store_true", default=False, help="plant none")


def _add_selecting(add: Add) -> None:
    """Of `python -m validation run` alone: pytest has --last-failed of its own."""
    add(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="make only checks of this name, as the output shows it: a whole title, a part of one, or a pattern with * and ?; "
        "repeatable. Ranks go no further than these checks need",
    )
    add("--last-failed", action="store_true", help="make only checks that failed before, by the reports in --results")


def _add_output(add: Add) -> None:
    add("--results", default="results", metavar="DIR", help="where the JUnit files go (default results)")
    add("--pieces", action="store_true", default=False, help="show every rank's pieces, and keep what the ranks left behind")
    add("--manifest", default=None, metavar="FILE", help="write down every check that would be reported, and run nothing")


def add_cache_limit(add: Add) -> None:
    """Add the option that two commands have."""
    add(
        limit.OPTION,
        default=None,
        metavar="SIZE",
        help="how much the cache may hold, such as 20GB, or none for no limit; what was used longest ago goes first (default "
        f"${limit.VARIABLE}, else a tenth of its disk, {limit.written(limit.MOST)} at most)",
    )


def _words_of_a_layout() -> str:
    """What may follow a layout, a line each."""
    found = {word: f"{option(name)} {value}" for word, (name, value) in WORDS.items()}
    found |= {
        STREAM: f"--{STREAM}",
        "mtp": "a model with a layer of multi-token prediction, or as many as --set says; mtp2 with two",
    }
    found |= {"1-3": "the layers of each pipeline stage, if they are not even"}
    lines = (f"  +{word:<15} {meaning}" for word, meaning in found.items())
    return "\n".join(("words that may follow one layout, as in tp2+distributed+full:", *lines))


@dataclass(frozen=True)
class Group:
    """Options under one heading, which `declare` adds through the function that it is given.

    `alone` adds those that only `python -m validation run` takes.
    """

    title: str
    declare: Callable[[Add], None]
    description: str | None = None
    alone: Callable[[Add], None] | None = None


GROUPS = (
    Group("model", _add_model),
    Group("recipe", _add_recipe),
    Group("layouts", _add_layouts, _words_of_a_layout()),
    Group("data", _add_data),
    Group("options of a step", _add_step),
    Group("settings of megatron-core", _add_settings),
    Group("precision and machine", _add_machine),
    Group("nodes", _add_nodes),
    Group("code under test", _add_code),
    Group("what to check", _add_checks, alone=_add_selecting),
    Group("output", _add_output, alone=_add_telling),
)

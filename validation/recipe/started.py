"""How many ranks a command line starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from validation.recipe.words import Command, Word

_SIZES = {
    "nproc": ("--nproc_per_node", "--nproc-per-node", "--num_gpus", "--num_processes"),
    "nodes": ("--nnodes", "--num_nodes"),
}
_ACTOR = {"nodes": ("--actor-num-nodes",), "nproc": ("--actor-num-gpus-per-node",)}
_BY_VARIABLES = ("megatron", "swift")
"""Programs of ms-swift: they start torchrun by themselves, with what variables say (swift/cli/main.py)."""
_HOSTS = ("-H", "--hostfile")
"""Options of deepspeed that name a file with the nodes."""
_DIGITS = 7
"""Of a number of nodes, or of ranks of one: more are no number of a machine."""


def ranks(command: Command) -> int | None:
    """The ranks as far as somebody says them: slime's actor, the launcher, or WORLD_SIZE; None if nobody does.

    torchrun starts one process on one node if it is not told otherwise.
    """
    actor = dict(_said(command.words, _ACTOR))
    if len(actor) == len(_ACTOR):
        return _product(actor)
    variables = dict(command.variables)
    said = dict(_said(command.launcher, _SIZES))
    if command.program.rpartition("/")[2] in _BY_VARIABLES:
        return _product({"nproc": variables.get("NPROC_PER_NODE", ""), "nodes": variables.get("NNODES", "1")})
    if any(word.text.rpartition("/")[2] == "torchrun" or "torch.distributed" in word.text for word in command.launcher):
        said = {"nproc": "1"} | said
    elif not said:
        said["nproc"] = variables.get("WORLD_SIZE", "")
    if "nodes" not in said and any(word.text.partition("=")[0] in _HOSTS for word in command.launcher):
        return None
    return _product(said)


def _product(said: Mapping[str, str]) -> int | None:
    """Nodes times processes of each; of `1:4` nodes four. None for a word such as `gpu`, and for no rank at all."""
    each, nodes = said.get("nproc", ""), said.get("nodes", "1").rpartition(":")[2]
    known = all(text.isdecimal() and text.isascii() and len(text) <= _DIGITS for text in (each, nodes))
    return int(each) * int(nodes) or None if known else None


def _said(words: Sequence[Word], sizes: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for place, word in enumerate(words):
        name, joined, value = word.text.partition("=")
        for key, flags in sizes.items():
            if name in flags:
                yield key, value if joined else words[place + 1].text if place + 1 < len(words) else ""

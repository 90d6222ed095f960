"""The releases that are run, and what `nox -s versions` runs with each: data, for the noxfile and for docs/versions.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """An environment: a megatron-core, and a transformers where it is not the newest that the requirements allow."""

    megatron_core: str
    transformers: str = ""

    @property
    def name(self) -> str:
        """What the environment and the folder of its results are called."""
        return f"megatron-core-{self.megatron_core}" + (f"-transformers-{self.transformers}" if self.transformers else "")


RELEASES = (
    Release("0.12.3"),
    Release("0.13.1"),
    Release("0.14.0"),
    Release("0.15.3"),
    Release("0.16.1"),
    Release("0.16.1", transformers="5.17.0"),
    Release("0.17.1"),
    Release("0.18.2"),
    Release("0.19.2"),
)
OLDER = Release("0.16.1")
"""The newest megatron-core that Python 3.11 can have."""
NEWEST = RELEASES[-1]
"""The newest megatron-core that is supported. It asks for Python 3.12."""


def newest_for(python: tuple[int, int]) -> Release:
    """What requirements/base.txt has for this Python."""
    return NEWEST if python >= (3, 12) else OLDER


def other_than_for(python: tuple[int, int]) -> Release:
    """What it has for the others."""
    return OLDER if newest_for(python) is NEWEST else NEWEST


@dataclass(frozen=True)
class Group:
    """Layouts that one command runs. `does` follows the layout in the table."""

    name: str
    does: str
    layouts: tuple[str, ...]
    options: tuple[str, ...]

    def arguments(self, results: Path) -> list[str]:
        """The command line after `python -m validation`."""
        words = ["run", "--layouts", ",".join(self.layouts), *self.options]
        return [*words, "--no-self-test", "--results", str(results / self.name)]


# Until 0.13 yarn's softmax scale is wrong wherever mscale is unlike mscale_all_dim, and with it everything: equal, they leave
# the layouts to be seen. Four micro-batches are the fewest with which an interleaved schedule is more than its warm-up.
_EQUAL = ("--set", "mscale_all_dim=1.0", "--micro-batch-size", "1")
_LAYOUTS = "single tp2 pp2 ep2 tp2etp2 tp2ep2 tp2pp2 pp2ep2 cp2 dp2 pp2vpp2 tp2ep2etp2 tp2cp2 ep2cp2 tp2etp1 etp2"
GROUPS = (
    Group("layouts", "", tuple(_LAYOUTS.split()), _EQUAL),
    Group("yarn", "yarn with mscale 1, mscale_all_dim 0.707", ("single",), ()),
    Group("dense", "dense model", ("tp2", "tp2nosp"), (*_EQUAL, "--set", "first_k_dense_replace=4")),
    Group("local-stock", "megatron-core's own local spec", ("tp2",), (*_EQUAL, "--implementation", "local-stock")),
)


def titles() -> list[str]:
    """The rows of the table."""
    return [title(group, layout) for group in GROUPS for layout in group.layouts]


def title(group: Group, layout: str) -> str:
    """What a row is called."""
    return f"{layout}, {group.does}" if group.does else layout

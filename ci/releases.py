"""The releases that are run, and what `nox -s versions` runs with each: data, for the noxfile and for docs/versions.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ci.table import TABLE, rows
from validation.case.arrangement import parse
from validation.case.training import Training


@dataclass(frozen=True)
class Release:
    """An environment: a megatron-core, and transformers or torch if they are not those that requirements bring.

    `options` are given to each comparison with it that asks for them (`Group.options_of`).
    """

    megatron_core: str
    transformers: str = ""
    torch: str = ""
    options: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Layouts that megatron-core's configuration refuses before the start, with its words: a command with one ends with 2."""

    @property
    def name(self) -> str:
        """What the environment and the folder of its results are called."""
        libraries = {"transformers": self.transformers, "torch": self.torch}
        return "-".join(
            ["megatron-core", self.megatron_core, *(word for pair in libraries.items() if pair[1] for word in pair)]
        )


# Until 0.13 yarn's softmax scale is wrong wherever mscale is unlike mscale_all_dim, and with it everything: equal, they leave
# the layouts to be seen.
_EQUAL = ("--set", "mscale_all_dim=1.0")
# Until 0.13 recomputation by modules does not know shared experts.
_MODULES = {"cp2pp2+selective": "Invalid choices for recompute_modules: {'shared_experts'}"}
RELEASES = (
    Release("0.12.3", options=_EQUAL, refused=_MODULES),
    Release("0.13.1", options=_EQUAL, refused=_MODULES),
    Release("0.14.0"),
    Release("0.15.3"),
    Release("0.16.1"),
    Release("0.17.1"),
    Release("0.18.2"),
    Release("0.19.2"),
)
OLDER = RELEASES[4]
"""The newest megatron-core that Python 3.11 can have."""
NEWEST = RELEASES[-1]
"""The newest megatron-core that is supported. It asks for Python 3.12."""
LIBRARIES = (
    *(
        Release(NEWEST.megatron_core, transformers=version)
        for version in ("5.17.0", "5.18.0", "5.19.0", "5.20.2", "5.21.1", "5.22.2", "5.23.0")
    ),
    Release(NEWEST.megatron_core, transformers="5.17.0", torch="2.11.0"),
    *(Release(NEWEST.megatron_core, torch=version) for version in ("2.12.1", "2.14.1", "2.15.0")),
)
"""The newest megatron-core with other releases of the libraries that requirements/cuda.txt allows than a fresh environment has:
NEWEST is run with those."""


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
    options: tuple[str, ...] = ()
    of_release: bool = True
    """Whether the options of a release count."""

    def arguments(self, release: Release, results: Path) -> list[str]:
        """The command line after `python -m validation`; the results go below the folder."""
        own = release.options if self.of_release else ()
        layouts = [layout for layout in self.layouts if layout not in release.refused]
        words = ["run", "--layouts", ",".join(layouts), *self.options, *own]
        return [*words, "--no-self-test", "--results", str(results / release.name / self.name)]


_PARITY = next(row.layouts for row in rows(TABLE) if row.session == "parity")
_WITHOUT_CP = tuple(name for name in _PARITY if parse(name, Training())[0].cp == 1)
GROUPS = (
    Group("local", "", _PARITY),
    Group("local-stock", "local-stock", _WITHOUT_CP, ("--implementation", "local-stock")),
    Group("bugs", "", ("tp2etp1", "etp2")),
    Group("dense", "dense model", ("tp2nosp",), ("--set", "first_k_dense_replace=4")),
    Group("yarn", "yarn with mscale 1, mscale_all_dim 0.707", ("single",), of_release=False),
)
"""The layouts of `nox -s parity`; those of them that local-stock has, which knows no context parallelism; known bugs."""


def groups(release: Release) -> tuple[Group, ...]:
    """What is run with a release: of libraries the layouts of `nox -s parity`."""
    return GROUPS[:1] if release in LIBRARIES else GROUPS


def titles(run: Iterable[Group] = GROUPS) -> list[str]:
    """What the rows of these groups are called."""
    return [title(group, layout) for group in run for layout in group.layouts]


def title(group: Group, layout: str) -> str:
    """What a row is called."""
    return f"{layout}, {group.does}" if group.does else layout

"""Megatron-LM's parsers by release, and that of a checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from validation.case.errors import EnvironmentMissing, UsageError
from validation.recipe import parser, read

ARGUMENTS = """
import missing_package
import missing_package.language as tl
from typing import override
@missing_package.autotune(configs=[missing_package.Config({"N": missing_package.__version__})], key=["n"])
@missing_package.jit
def kernel(n: tl.constexpr): pass
def freq(text): return [0, 1]
def add_megatron_arguments(parser):
    group = parser.add_argument_group("network size")
    group.add_argument("--num-layers", type=int, default=None)
    group.add_argument("--moe-layer-freq", type=freq, default=1)
    group.add_argument("--our-switch", action="store_true")
    group.add_argument("--no-fusion", action="store_false", dest="fusion")
    group.add_argument("--kind", choices=["a", "b"], default="a")
    return parser
"""
CORE = """
import dataclasses
@dataclasses.dataclass
class MLATransformerConfig:
    num_layers: int = 0
    moe_layer_freq: object = 1
    our_switch: bool = False
    fusion: bool = False
    names: list = dataclasses.field(default_factory=lambda: ["a"])
DistributedDataParallelConfig = OptimizerConfig = dataclasses.make_dataclass("Other", [("lr", float, 0.5)])
class OptimizerParamScheduler:
    def __init__(self, optimizer, init_lr, max_lr=1): pass
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose parser has a flag and a type that nobody else has."""
    core = tmp_path / "checkout" / "megatron" / "core"
    for folder in ("", "optimizer"):
        (core / folder).mkdir(parents=True)
        (core / folder / "__init__.py").touch()
    (core / "package_info.py").write_text('__version__ = "9.9"\n')
    for module in ("transformer", "distributed", "optimizer/optimizer_config", "optimizer_param_scheduler"):
        (core / f"{module}.py").write_text(CORE)
    training = core.parent / "training"
    training.mkdir()
    (training / "__init__.py").touch()  # the wheel of 0.19 has this package, too
    (training / "arguments.py").write_text(ARGUMENTS)
    return tmp_path / "checkout"


def test_a_checkout_reads_the_flags_with_its_own_parser(checkout: Path, tmp_path: Path) -> None:
    """A package that is missing, a flag of the fork, and a type that only the fork knows."""
    file = tmp_path / "flags"
    file.write_text("--num-layers 4 --our-switch --moe-layer-freq anything --swiglu")
    recipe = read.read(file, checkout=checkout)
    assert recipe.values["model.our_switch"] is True
    assert recipe.values["model.moe_layer_freq"] == (0, 1)
    assert recipe.values["model.fusion"] is True, "a default of the parser that differs from the dataclass"
    assert [flag.text for flag in recipe.unknown] == ["--swiglu"]
    assert str(checkout) in recipe.defaults


def test_flags_that_the_checkout_refuses(checkout: Path, tmp_path: Path) -> None:
    """In one sentence, as the parser says it."""
    with pytest.raises(UsageError, match="refuses the flags: argument --kind: invalid choice"):
        parser.checkout(checkout, ["--kind", "c"])


def test_a_folder_that_is_no_checkout(tmp_path: Path, checkout: Path) -> None:
    """Without a parser, and with one that cannot be imported."""
    with pytest.raises(UsageError, match=r"has no megatron/training/arguments\.py"):
        parser.checkout(tmp_path)
    (checkout / "megatron" / "training" / "arguments.py").write_text("import megatron.nothing\n")
    with pytest.raises(EnvironmentMissing, match="cannot be imported"):
        parser.checkout(checkout)


def test_the_releases() -> None:
    """Each is made of the one before and what has changed."""
    assert parser.releases()[0] == "0.16.1"
    counts = {name: len(parser.release(name).options) for name in parser.releases()}
    assert counts == {"0.16.1": 651, "0.17.1": 704, "0.18.2": 750, "0.19.1": 807, "main": 838, "dev": 845}
    assert parser.release("0.16.1").fields["model"]["rotary_scaling_factor"] == 40
    assert parser.release("0.16.1").by_dest["rotary_scaling_factor"].default == 1.0
    with pytest.raises(UsageError, match=r"no parser of Megatron-LM 0\.1 is known"):
        parser.release("0.1")


@pytest.mark.parametrize(
    ("version", "name"),
    [("0.12.3", "0.16.1"), ("0.16.1", "0.16.1"), ("0.19.2", "0.19.1"), ("0.18.0rc1", "0.18.2")],
)
def test_the_release_that_goes_with_a_version(version: str, name: str) -> None:
    """The newest that is not newer, patches aside."""
    assert parser.nearest(version) == name


def test_the_file_of_parsers_is_json_with_a_line_for_each_option() -> None:
    """Changes of a release can be read in a diff."""
    text = parser.FILE.read_text()
    assert len(json.loads(text)["releases"]) == len(parser.releases())
    assert max(map(len, text.splitlines())) < 20_000
    assert text.count("\n") > 900

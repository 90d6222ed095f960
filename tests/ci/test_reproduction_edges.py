"""The blocks that reproduce a failure, and whose command is ours, to the letter (tests/ci/pages/reproduction.txt)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ci import reproduction
from ci.reproduction import LONGEST, Sources, command, ours, setup, sources
from tests.ci.approved import same_as_approved
from tests.ci.runs import check, suite

RUN = "python -m validation run --layouts tp2"
AT_M = f"{RUN} --megatron-path '/m m'"
SHA, LONG_SHA = "a" * 40, "b" * 64
ALL = Sources("https://a.example/o/p", "https://a.example/t/m", "sub dir", "src dir")
NO_MEGATRON, NO_SPECS = replace(ALL, megatron=""), replace(ALL, specs="")
MADE: dict[str, tuple[str, Sources, dict[str, str]]] = {
    "everything is known": (AT_M, ALL, {"megatron-commit": LONG_SHA, "implementation": "my.specs:layers"}),
    "nothing is known": (AT_M, Sources(), {"commit": "", "implementation": "my.specs:layers"}),
    "the commits are not known": (AT_M, ALL, {"commit": "unknown", "megatron-commit": "unknown"}),
    "the address of Megatron is not known": (AT_M, NO_MEGATRON, {"megatron-commit": SHA, "implementation": "m:l"}),
    "the folder of the specs is not known": (AT_M, NO_SPECS, {"megatron-commit": SHA, "implementation": "m:l"}),
    "specs without Megatron": (RUN, ALL, {"megatron-commit": SHA, "implementation": "m:l"}),
    "specs of its own": (RUN, ALL, {"implementation": "tests.checks.specs:layers"}),
    "no name of specs": (RUN, ALL, {"implementation": "a b; rm"}),
    "changed files on GPUs": (RUN, ALL, {"dirty": "true", "transport": "nccl", "implementation": "te"}),
    "staged": (RUN, ALL, {"transport": "staged", "implementation": "te-fused"}),
    "other folders": (f"{RUN} --hf-model-path /a --plugin 'b c' --candidate-checkpoint d", ALL, {"commit": LONG_SHA}),
}


def _blocks() -> Iterator[str]:
    for name, (text, of, changed) in MADE.items():
        made = suite(checks=())
        yield f"# {name}\n{setup(replace(made, properties={**made.properties, **changed}), text, of)}\n"
    yield f"# no property\n{setup(replace(suite(checks=()), properties={}), AT_M, ALL)}\n"


def test_blocks_are_the_approved_ones() -> None:
    same_as_approved("reproduction.txt", "\n".join(_blocks()))


def test_a_command_has_a_longest() -> None:
    """And a check without one has none."""
    longest = f"{RUN} ".ljust(LONGEST, "a")
    assert (ours(longest), ours(f"{longest}a")) == (longest, "")
    assert command(check("Loss")) == ""


def test_a_check_without_a_command_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "ours", lambda text: f"({text})")
    assert command(check("Loss")) == "()"


@pytest.mark.parametrize(
    ("folder", "core", "specs"),
    [
        ("", ".", ""),
        ("a/b", "a/b", "a/b"),
        ("a..b", "a..b", "a..b"),
        ("/a", ".", ""),
        ("a/../b", ".", ""),
        ("a\nb", ".", ""),
    ],
)
def test_a_folder_is_one_of_the_repository(folder: str, core: str, specs: str) -> None:
    found = sources({"MEGATRON_FOLDER": folder, "MEGATRON_SPECS": folder})
    assert found == Sources("", "", core, specs)


@pytest.mark.parametrize("missing", ["GITHUB_SERVER_URL", "PLUMBLINE_REPOSITORY", "MEGATRON_REPOSITORY"])
def test_an_address_has_a_server_and_a_repository(missing: str) -> None:
    """Half of one is none."""
    known = {"GITHUB_SERVER_URL": "https://a.example", "PLUMBLINE_REPOSITORY": "o/p", "MEGATRON_REPOSITORY": "t/m"}
    found = sources({name: value for name, value in known.items() if name != missing})
    plumbline = "" if missing in ("GITHUB_SERVER_URL", "PLUMBLINE_REPOSITORY") else "https://a.example/o/p"
    megatron = "" if missing in ("GITHUB_SERVER_URL", "MEGATRON_REPOSITORY") else "https://a.example/t/m"
    assert found == Sources(plumbline, megatron)

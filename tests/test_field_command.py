"""`python -m validation fields` says what a field is."""

from __future__ import annotations

import pytest

from validation import checkout
from validation.case.declared import here
from validation.case.fields import KINDS, entries
from validation.cli import main


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["fields", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_field_is_shown_with_its_kind_its_type_and_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "model.moe_permute_fusion", "model.moe_router_dtype") == [
        "model.moe_permute_fusion",
        "  kind       machine: like neutral, but needs what a CPU does not have",
        "  does       tokens are ordered by expert in one kernel",
        "  takes      true or false",
        "  default    False",
        "  needs      Transformer Engine",
        "  tried 0.16.1 true equal in ep2 on NVIDIA H200, 143771 MiB, torch 2.11.0, Transformer Engine 2.11.0",
        "  tried 0.19.2 true equal in ep2 on NVIDIA H200, 143771 MiB, torch 2.11.0, Transformer Engine 2.11.0",
        "model.moe_router_dtype",
        "  kind       meaning: changes what is computed",
        "  does       the dtype of routing; transformers routes in fp32, and fp64 hides it",
        "  takes      fp32, fp64 or null",
        "  default    None",
        "  reference  validation/reference/model.py",
        "  for        fp32, fp64",
        "  shows in   bf16",
    ]


def test_what_one_value_needs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "  flex needs DeepEP" in said(capsys, "model.moe_token_dispatcher_type")
    assert "  default    none: it must be given" in said(capsys, "scheduler.max_lr")


def test_all_fields_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys)
    assert [line.split()[0] for line in lines] == list(here())
    assert {line.split()[1] for line in lines} == set(KINDS)


def test_a_kind_picks_fields(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "--kind", "layout")
    assert {line.split()[1] for line in lines} == {"layout"}
    assert len(lines) == sum(entries()[name].kind == "layout" for name in here())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.moe_permute_fussion"], "the nearest that this megatron-core has: model.moe_permute_fusion"),
        (["--kind", "fast"], "--kind fast is no kind; kinds are shape, layout, neutral, meaning, machine, idle, refused"),
        (["--megatron-path", "/nowhere"], "there is no megatron/core/__init__.py in it"),
        (["model.fp8", "--", "-k", "x"], "fields takes nothing behind --; leave it out"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(["fields", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert checkout.chosen() is None

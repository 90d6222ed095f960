"""Products in fp8: a word of a layout's step, and refused in one sentence where Transformer Engine cannot take them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import pytest

from validation.case import preflight
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.run.command_line import add_options
from validation.run.options import settings

MINI = ("--preset", "mini", "--implementation", "te", "--precision", "bf16", "--share-gpu", "8")


def cases(*words: str) -> tuple[Case, ...]:
    parser = argparse.ArgumentParser()
    add_options(parser.add_argument)
    return settings(parser.parse_args([*MINI, *words]), "").cases


def check(case: Case) -> None:
    preflight.check(case, max_ranks=64, gpus=64, memory=None)


def test_it_is_named_after_the_layout() -> None:
    """So are the JUnit file, the testsuite and what a manifest says."""
    (case,) = cases("--layouts", "tp2", "--fp8", "delayed")
    assert case.name == "mini-tp2+fp8-delayed-bf16-te-staged"
    assert case.title == "mini / tp2+fp8-delayed / bf16 / te / staged: 2 ranks"
    assert Case.from_json(case.to_json()) == case


def test_a_layout_s_word_says_the_same_as_the_option() -> None:
    assert cases("--layouts", "tp2+fp8-blockwise") == cases("--layouts", "tp2", "--fp8", "blockwise")
    assert [case.training.fp8 for case in cases("--layouts", "tp2,tp2+fp8-delayed")] == ["none", "delayed"]


@pytest.mark.parametrize("fp8", ["delayed", "blockwise"])
@pytest.mark.parametrize(
    "layout", ["single", "tp2", "tp4", "pp2", "ep2", "tp2ep2", "tp2pp2", "tp2etp2", "cp2", "dp2", "tp2+mtp"]
)
def test_every_layout_of_mini_fits(fp8: str, layout: str) -> None:
    (case,) = cases("--layouts", layout, "--fp8", fp8)
    check(case)


PADDED = "model.moe_router_padding_for_fp8=true"
REFUSED = [
    ("local", "delayed", (), {"implementation": "local"}, "--implementation te has them, or leave out"),
    ("fp32", "delayed", (), {"precision": "fp32"}, "the precision is fp32; --precision bf16 works"),
    ("isolated", "blockwise", (), {"isolated": True}, "has no isolated modules .*--isolated"),
    ("a Megatron checkpoint", "delayed", (), {"candidate_checkpoint": "there"}, "which may bring scales of its own"),
    ("streamed", "blockwise", ("--stream",), {}, "has no model layer by layer"),
    ("means of means", "delayed", ("--loss", "mean"), {}, "--loss token works"),
    ("recomputed norms", "delayed", ("--recompute", "selective"), {}, "--recompute full works"),
    ("a latent", "delayed", ("--set", "q_lora_rank=24"), {}, "multiples of 16; q_lora_rank is 24, and 16 or 32 works"),
    ("both latents", "delayed", ("--set", "qk_rope_head_dim=8"), {}, r"kv_lora_rank \+ qk_rope_head_dim is 136"),
    ("heads", "delayed", ("--set", "v_head_dim=4", "--tp", "16"), {}, r"num_attention_heads / tp16 \* \(qk_nope_head_dim"),
    ("tokens", "delayed", ("--seq-length", "72"), {}, r"micro_batch_size \* seq_length\) is 72, and 64 or 80 works"),
    ("gathered tokens", "blockwise", ("--tp", "8"), {}, r"gathers blocks of 128; .*seq_length / tp8\) is 64, .*tp1 works"),
    ("padded tokens", "blockwise", ("--config", PADDED, "--dispatcher", "allgather"), {}, "--dispatcher alltoall has it"),
    ("a gathered latent", "blockwise", ("--tp", "2", "--set", "kv_lora_rank=192"), {}, "kv_lora_rank is 192, and 128 or 256"),
]


@pytest.mark.parametrize(("fp8", "words", "changes", "sentence"), [pytest.param(*one[1:], id=one[0]) for one in REFUSED])
def test_what_cannot_be_is_refused(fp8: str, words: tuple[str, ...], changes: dict[str, Any], sentence: str) -> None:
    (case,) = cases("--fp8", fp8, *words)
    with pytest.raises(UsageError, match=sentence):
        check(replace(case, **changes))


def test_blocks_need_not_be_whole_where_nothing_is_gathered() -> None:
    """What is left of them is taken as it is."""
    (case,) = cases("--fp8", "blockwise", "--set", "kv_lora_rank=192", "--seq-length", "80")
    check(case)


def test_means_of_means_keep_their_gradients_under_block_scaling() -> None:
    check(cases("--fp8", "blockwise", "--loss", "mean")[0])


def test_it_takes_memory_for_the_bytes_of_weights() -> None:
    plain, fp8 = (preflight.estimate(case) for case in cases("--layouts", "single,single+fp8-delayed"))
    assert 0 < fp8.rank - plain.rank < 2**30

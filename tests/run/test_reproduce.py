"""The reproduction: whatever a command asked for, the command that is printed asks for the same case."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import pytest

from validation.run.command_line import add_grouped
from validation.run.options import Settings, settings
from validation.run.reproduce import alone, command


def parsed(words: list[str]) -> Settings:
    parser = argparse.ArgumentParser()
    add_grouped(parser)
    return settings(parser.parse_args(words), "")


def printed(words: str, check: str = "Layer 0 Attention Output") -> list[str]:
    """The words of the command that is printed for the first case of another."""
    wanted = parsed(shlex.split(words))
    return shlex.split(command(wanted.cases[0], check, wanted))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--layouts tp2pp2nosp,tp2",
        "--tp 2 --dp 1",
        "--preset mini --layouts ep2 --precision fp32 --steps 1",
        "--preset mini --set num_layers=4 --set q_lora_rank=none --set tie_word_embeddings=true --set rope_factor=8.5",
        "--layouts pp2vpp2 --batch-size 8 --micro-batch-size 2 --seq-length 96",
        "--layouts dp2 --batch-size 6",
        "--layouts pp2+1-3+distributed+full --seed 7",
        "--layouts cp2 --loss mean --balancing aux_loss --recompute selective --dispatcher allgather --experts grouped",
        "--layouts single+mtp",
        "--preset mini --layouts tp2+fp8-delayed --implementation te --precision bf16 --transport nccl",
        "--preset mini --fp8 blockwise --implementation te --precision bf16 --transport staged",
        "--set mtp_num_layers=2 --layouts pp2",
        "--set mtp_num_layers=2 --layouts tp2+mtp --steps 0",
        "--steps 0 --implementation my.package:spec --transport nccl",
        "--precision fp32",
        "--precision fp32 --steps 2",
    ],
)
def test_the_case_is_the_same(words: str) -> None:
    """Every option that makes it is in the command."""
    found = printed(words)
    assert found[:4] == ["python", "-m", "validation", "run"]
    again = parsed(found[4 : found.index("--only")])
    assert again.cases == parsed(shlex.split(words)).cases[:1]


def test_without_a_check_it_is_all_of_the_case() -> None:
    """The same words, and no selection."""
    assert printed("--layouts tp2", check="") == printed("--layouts tp2")[:-2]


def test_a_checkpoint_is_named_by_its_folder(tmp_path: Path) -> None:
    """With the layers that were taken; its path is quoted where a shell would break it."""
    from validation.case.preset import TINY

    folder = tmp_path / "my model"
    folder.mkdir()
    numbers = TINY.model.as_dict()
    (folder / "config.json").write_text(json.dumps({"model_type": "deepseek_v3", **numbers, "rope_type": None}))
    words = f"--hf-model-path {shlex.quote(str(folder))} --layers 0,2 --layouts tp2 --seq-length 32"
    found = printed(words)
    assert parsed(found[4 : found.index("--only")]).cases == parsed(shlex.split(words)).cases


def test_what_is_no_part_of_the_case_is_kept_where_it_matters(tmp_path: Path) -> None:
    """The checkout, the time limit and as many ranks as are needed; where the files went is left to the reader."""
    found = printed(f"--megatron-path {tmp_path} --case-timeout 1200 --max-ranks 16 --tp 4 --dp 4 --results there --jobs 3")
    again = parsed(found[4 : found.index("--only")])
    assert (again.megatron_path, again.timeout, again.max_ranks) == (tmp_path, 1200.0, 16)
    assert "--results" not in found
    assert "--jobs" not in found


def test_the_check_is_named_as_it_is_shown() -> None:
    """Quoted for a shell."""
    found = printed("", "Layer 0 Attention Output")
    assert found[-2:] == ["--only", "Layer 0 Attention Output"]


def test_one_rank_has_neither_stages_nor_a_distributed_optimizer() -> None:
    """What stays is the model, its data and its steps."""
    case = parsed(["--layouts", "pp2+1-3+distributed+mean"]).cases[0]
    single = alone(case)
    assert (single.arrangement, single.training.steps) == ("single+mean", case.training.steps)

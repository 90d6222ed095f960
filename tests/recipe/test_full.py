"""A recipe that was read becomes a model and layout that a stand-in is found for."""

from __future__ import annotations

from pathlib import Path

import pytest

from validation import cli
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.recipe import full, read
from validation.recipe.pipeline import Split
from validation.recipe.signature import Full
from validation.recipe.standin import stand_in


def test_recipe_show_ends_with_the_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or with why there is none."""
    file = tmp_path / "flags.txt"
    file.write_text(FLAGS)
    assert cli.main(["recipe", "show", str(file), "--world-size", "16"]) == 0
    said = capsys.readouterr().out
    assert "what stands for it on a CPU\n  full size: tp2ep8etp2dp8, 16 ranks, 16 layers, 64 experts (8 a rank)" in said
    file.write_text(FLAGS.replace("--num-layers 16", ""))
    assert cli.main(["recipe", "show", str(file)]) == 0
    assert "what stands for it on a CPU\n  nothing: flags.txt does not say num_hidden_layers" in capsys.readouterr().out


@pytest.mark.parametrize("ranks", [0, -8])
@pytest.mark.parametrize("command", ["run --recipe", "recipe show"])
def test_a_number_of_ranks_below_one_is_refused(
    command: str, ranks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flags.txt"
    file.write_text(FLAGS)
    assert cli.main([*command.split(), str(file), "--world-size", str(ranks)]) == 2
    assert f"--world-size {ranks}: at least one rank trains; give a number from 1" in capsys.readouterr().err


FLAGS = """
--tensor-model-parallel-size 2 --expert-model-parallel-size 8 --num-layers 16 --hidden-size 2048 --num-attention-heads 16
--multi-latent-attention --num-experts 64 --moe-router-topk 6 --moe-layer-freq ([0]*1+[1]*15) --moe-ffn-hidden-size 1408
--ffn-hidden-size 8192 --moe-shared-expert-intermediate-size 2816 --seq-length 4096 --max-position-embeddings 4096
--micro-batch-size 1 --global-batch-size 64 --sequence-parallel --swiglu --moe-token-dispatcher-type alltoall
--normalization RMSNorm --disable-bias-linear --qk-layernorm --position-embedding-type rope
"""


def flags(folder: Path, more: str = "", without: str = "") -> Full:
    """What a file of flags trains, on 64 ranks."""
    file = folder / "flags.txt"
    file.write_text(FLAGS.replace(without, "") + more)
    return full.of(read.read(file, world=64))


def test_flags_become_a_stand_in(tmp_path: Path) -> None:
    """Experts with a tensor-parallel degree of their own, as upstream takes it from the others, and a micro-batch of one."""
    found = flags(tmp_path, "--pipeline-model-parallel-size 4 --use-distributed-optimizer --mtp-num-layers 1")
    assert found.layout == Layout(tp=2, pp=4, ep=8, etp=2, dp=8)
    assert (found.options.distributed_optimizer, found.options.dispatcher, found.micro_batch_size) == (True, "alltoall", 1)
    small = stand_in(found)
    lost = [f"{kind} groups have 3 ranks or more at full size, and 2 ranks here" for kind in ("dp", "ep")]
    assert (small.layout.name, list(small.lost)) == ("tp2pp3ep2etp2", lost)
    assert small.case().arrangement == "tp2pp3ep2etp2+mtp+distributed"
    assert "vocabulary" not in small.describe()  # only the tokenizer knows it
    assert (small.model.q_lora_rank, small.model.n_group, small.model.n_shared_experts) == (None, 1, 2)


@pytest.mark.parametrize(
    ("words", "split", "vpp"),
    [
        ("--decoder-first-pipeline-num-layers 5 --decoder-last-pipeline-num-layers 3", Split(first=5, last=3), 1),
        ("--pipeline-model-parallel-layout Et*3|(tt|)*6t|L", Split("Et*3|(tt|)*6t|L"), 2),
    ],
)
def test_stages_are_split_as_the_recipe_says(tmp_path: Path, words: str, split: Split, vpp: int) -> None:
    """A layout string of 9 stages is no multiple of 4; one of 8 has two for each rank."""
    if vpp > 1:
        words, split = words.replace("*6t|L", "*6tL"), Split("Et*3|(tt|)*6tL")
    found = flags(tmp_path, f"--pipeline-model-parallel-size 4 {words}")
    assert (found.options.split, found.layout.vpp) == (split, vpp)


def test_a_recipe_that_does_not_say_its_layers_has_no_stand_in(tmp_path: Path) -> None:
    """What ms-swift takes from a HuggingFace folder is not in its flags."""
    with pytest.raises(UsageError, match=r"flags.txt does not say num_hidden_layers, without which"):
        flags(tmp_path, without="--num-layers 16")


BRIDGE = """
model:
  _target_: megatron.bridge.models.deepseek.deepseek_provider.DeepSeekV3ModelProvider
  num_layers: 7
  num_attention_heads: 8
  hidden_size: 256
  num_moe_experts: 32
  multi_latent_attention: true
  expert_model_parallel_size: 4
  pipeline_model_parallel_size: 2
  pipeline_model_parallel_layout: [[embedding, decoder, decoder], [decoder, decoder], [decoder, decoder], [decoder, loss]]
"""


def test_a_list_of_stages_is_a_layout_string(tmp_path: Path) -> None:
    """Megatron-Bridge writes one list for each virtual stage."""
    file = tmp_path / "bridge.yaml"
    file.write_text(BRIDGE)
    found = full.of(read.read(file, world=8))
    assert (found.options.split.layout, found.layout.vpp) == ("Ett|tt|tt|tL", 2)
    file.write_text(BRIDGE.replace("[decoder, loss]", "[decoder, lost]"))
    with pytest.raises(UsageError, match="lost is no part of a pipeline layout; embedding, decoder, mtp, loss are"):
        full.of(read.read(file, world=8))


def test_a_recipe_with_rates_that_nothing_can_take_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be compared without steps instead."""
    file = tmp_path / "flags.txt"
    file.write_text(f"{FLAGS} --lr -1e-5 --min-lr 0")
    assert cli.main(["run", "--recipe", str(file), "--world-size", "64"]) == 2
    assert "optimizer.lr is -1e-05; give a rate of 0 or more" in capsys.readouterr().err

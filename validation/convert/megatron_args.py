"""What Megatron-LM finds beside the weights: the arguments it compares with its own, and which checkpoint is the latest."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from validation.candidate.checkpoint.places import Arrangement
from validation.case.megatron_folder import RELEASE, TRACKER
from validation.convert.source import Source
from validation.convert.to_huggingface import copy_beside, write_config


def common(source: Source, arrangement: Arrangement) -> dict[str, Any]:
    """The state that is no tensor's."""
    return {"args": arguments(source, arrangement), "checkpoint_version": 3.0, "iteration": 0}


def arguments(source: Source, arrangement: Arrangement) -> Namespace:
    """The arguments that Megatron-LM's check_checkpoint_args asks for, and those that say how the model is shaped."""
    model, layout = source.described.model, arrangement.layout
    return Namespace(
        num_layers=model.num_hidden_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        ffn_hidden_size=model.intermediate_size,
        moe_ffn_hidden_size=model.moe_intermediate_size,
        num_experts=model.n_routed_experts if model.moe_layers else None,
        q_lora_rank=model.q_lora_rank,
        kv_lora_rank=model.kv_lora_rank,
        mtp_num_layers=model.num_nextn_predict_layers or None,
        untie_embeddings_and_output_weights=not model.tie_word_embeddings,
        add_position_embedding=False,
        max_position_embeddings=model.max_position_embeddings,
        make_vocab_size_divisible_by=1,
        padded_vocab_size=model.vocabulary_rows,
        tokenizer_type="HuggingFaceTokenizer",
        data_parallel_random_init=False,
        phase_transition_iterations=None,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        decoder_first_pipeline_num_layers=arrangement.stages[0] if arrangement.stages else None,
        decoder_last_pipeline_num_layers=arrangement.stages[-1] if arrangement.stages else None,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.expert_tp,
        world_size=layout.ranks,
        data_parallel_size=layout.data_parallel,
        no_save_optim=True,
        no_save_rng=True,
    )


def write_beside(folder: Path, source: Source, dtype: torch.dtype | None, beside: Path) -> None:
    """Megatron-LM's word for the latest checkpoint, and config.json and tokenizer for the way back."""
    (folder / TRACKER).write_text(RELEASE)
    write_config(folder, source, dtype)
    copy_beside(beside, folder)

"""Keys of a config.json that nobody reads: what they would change is not compared. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.families import FAMILIES, MTP_LAYERS, described
from validation.case.folder import read_config


def unread(config: Mapping[str, Any]) -> list[str]:
    """The names of such keys, in order. `config` is the part that describes the model of text."""
    return sorted(set(config) - _KNOWN - {name for name in config if name.startswith("_")})


def unread_of(folder: str) -> list[str]:
    """The same of a checkpoint folder; nothing if it cannot be read any more."""
    try:
        return unread(described(read_config(Path(folder)), folder).config)
    except UsageError:
        return []


_KNOWN = {
    *(name for family in FAMILIES.values() for name in (*family.defaults, *family.fixed)),
    *("model_type", "architectures", "auto_map", "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size"),
    *("num_hidden_layers", "first_k_dense_replace", "num_attention_heads", "num_key_value_heads", "n_routed_experts"),
    *("num_experts_per_tok", "n_group", "topk_group", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "hidden_act", "attention_bias", "mlp_bias"),
    *("attention_dropout", "moe_layer_freq", "mlp_layer_types", "head_dim", "qk_head_dim", "num_local_experts", "num_experts"),
    *("quantization_config", "torch_dtype", "dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id"),
    *("pad_token_id", "unk_token_id", "initializer_range", "pretraining_tp", "ep_size", "aux_loss_alpha", "seq_aux"),
    *(MTP_LAYERS, "num_mtp_layers", "partial_rotary_factor", "output_router_logits", "layer_types", "rope_interleave"),
    *("output_attentions", "output_hidden_states", "return_dict", "is_encoder_decoder", "id2label", "label2id", "problem_type"),
    *("chunk_size_feed_forward", "use_bidirectional_attention", "text_config", "vision_config"),
}
"""Keys that are read, that a tokenizer or a loader reads, or that change nothing here."""

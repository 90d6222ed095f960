"""The geometry of a DeepSeek-V3-style model, in the words of a HuggingFace `config.json` (see `published`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from validation.case.errors import UsageError
from validation.case.strangers import shown

MEGATRON_WORDS = {
    "num_layers": "num_hidden_layers",
    "mtp_num_layers": "num_nextn_predict_layers",
    "ffn_hidden_size": "intermediate_size",
    "moe_ffn_hidden_size": "moe_intermediate_size",
    "num_moe_experts": "n_routed_experts",
    "moe_router_topk": "num_experts_per_tok",
    "moe_router_num_groups": "n_group",
    "moe_router_group_topk": "topk_group",
    "moe_router_topk_scaling_factor": "routed_scaling_factor",
    "qk_head_dim": "qk_nope_head_dim",
    "qk_pos_emb_head_dim": "qk_rope_head_dim",
    "layernorm_epsilon": "rms_norm_eps",
    "rotary_base": "rope_theta",
    "rotary_scaling_factor": "rope_factor",
    "dsa_indexer_topk": "index_topk",
    "dsa_indexer_n_heads": "index_n_heads",
    "dsa_indexer_head_dim": "index_head_dim",
    "dsa_indexer_rope_interleaved": "indexer_rope_interleave",
}
"""Megatron's words for the same numbers; `--set` takes either."""
PADDED = "padded_vocab_size"
"""The number that no `config.json` has: padding is a matter of the layout."""
INDEXER = ("index_topk", "index_n_heads", "index_head_dim", "indexer_rope_interleave")
"""The numbers of sparse attention (DSA). A model without it says nothing of them."""
ASKED_FOR = "num_nextn_predict_layers"
"""The number that is not taken from a `config.json`: a checkpoint's MTP layer is compared where that is asked for."""


@dataclass(frozen=True)
class Model:
    """Every number that shapes the model. Sizes are in elements, ranks and counts are plain integers.

    `num_nextn_predict_layers` counts the layers of multi-token prediction (MTP). They follow the others in the checkpoint's
    numbering, each with a block of its own, which always has experts.

    `mscale` is None where config.json gives none, which to transformers is not the same as any number. `topk_method` says how
    experts are chosen: `noaux_tc` (DeepSeek-V3: sigmoid scores with a bias, normalised), or DeepSeek-V2's `greedy` and
    `group_limited_greedy` (softmax scores, neither bias nor normalised). `padded_vocab_size` is the rows of embedding and head
    where there are more than tokens (validation.case.vocabulary).

    `index_topk` is the number of keys that a query attends to in sparse attention (DSA), None without it. Its indexer has
    `index_n_heads` heads of `index_head_dim` elements, and rotates interleaved pairs or halves.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    first_k_dense_replace: int
    num_attention_heads: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    n_shared_experts: int = 1
    num_nextn_predict_layers: int = 0
    routed_scaling_factor: float = 2.5
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 163840
    rope_type: str = "yarn"
    rope_theta: float = 10000.0
    rope_factor: float = 40.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = 1.0
    mscale_all_dim: float = 0.0
    topk_method: str = "noaux_tc"
    padded_vocab_size: int | None = None
    index_topk: int | None = None
    index_n_heads: int | None = None
    index_head_dim: int | None = None
    indexer_rope_interleave: bool = False

    @property
    def sparse(self) -> bool:
        """Whether attention is sparse (DSA): each query attends to the keys that an indexer chooses."""
        return self.index_topk is not None

    @property
    def attending_to_all(self) -> Model:
        """This model without its indexer."""
        return replace(self, index_topk=None, index_n_heads=None, index_head_dim=None, indexer_rope_interleave=False)

    @property
    def vocabulary_rows(self) -> int:
        """Rows of embedding and head: one a token, and those of padding behind them."""
        return self.padded_vocab_size or self.vocab_size

    @property
    def sigmoid(self) -> bool:
        """Whether experts are chosen as DeepSeek-V3's are: by sigmoid scores and a bias."""
        return self.topk_method == "noaux_tc"

    @property
    def query_head_dim(self) -> int:
        """Elements of one head of query or key: without position, then with rotary position."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """Layers with a plain MLP, counted from 0."""
        return tuple(range(min(self.first_k_dense_replace, self.num_hidden_layers)))

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Layers with a mixture of experts, counted from 0."""
        return tuple(range(len(self.dense_layers), self.num_hidden_layers))

    @property
    def mtp_layers(self) -> tuple[int, ...]:
        """Layers of multi-token prediction, counted on from those before them, as in the checkpoint."""
        return tuple(range(self.num_hidden_layers, self.num_hidden_layers + self.num_nextn_predict_layers))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Every layer with attention and an MLP or experts: the main model's and those of multi-token prediction."""
        return (*range(self.num_hidden_layers), *self.mtp_layers)

    @property
    def expert_blocks(self) -> tuple[int, ...]:
        """Every layer with a mixture of experts, those of multi-token prediction among them."""
        return (*self.moe_layers, *self.mtp_layers)

    def with_numbers(self, numbers: Mapping[str, str]) -> Model:
        """This model with some numbers replaced, each given as text. Raises UsageError for unknown names or values."""
        kinds = {field.name: field.type for field in fields(self)}
        changed: dict[str, Any] = {}
        for word, text in numbers.items():
            name = MEGATRON_WORDS.get(word, word)
            if name not in kinds:
                raise UsageError(f"--set {shown(word)}={shown(text)}: no such number; known are {', '.join(sorted(kinds))}")
            changed[name] = _number(word, text, str(kinds[name]))
        return replace(self, **changed)

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name, for JSON, without those of padding and of an indexer if there is none."""
        silent = {*(() if self.padded_vocab_size is not None else (PADDED,)), *(() if self.sparse else INDEXER)}
        return {name: number for name, number in asdict(self).items() if name not in silent}


def _number(word: str, text: str, kind: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise UsageError(f"--set {word}={text}: write true or false")
        return text.lower() == "true"
    if text.lower() in ("none", "null") and "None" in kind:
        return None
    try:
        return int(text) if kind.startswith("int") else float(text)
    except ValueError:
        wanted = "a whole number" if kind.startswith("int") else "a number"
        raise UsageError(f"--set {word}={shown(text)}: {wanted} is needed") from None

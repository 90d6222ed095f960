"""Whether transformers makes the same positions of a folder's config.json as of the numbers that were read there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from validation.case.errors import UsageError
from validation.case.strangers import shown


class Parts(Protocol):
    """transformers' classes of a family."""

    def of(self, kind: str, name: str) -> Any:
        """A class of `modeling` by the end of its name."""


@dataclass(frozen=True)
class _Positions:
    """What a configuration makes of positions: angles per position ([rotary elements / 2]) and two factors."""

    angles: torch.Tensor
    attention: float
    softmax: float

    @classmethod
    def of(cls, config: PreTrainedConfig, embedding: Any, attention: Any) -> _Positions:
        rotary = embedding(config)
        with torch.device("meta"):
            layer = attention(config, 0)
        return cls(rotary.inv_freq, rotary.attention_scaling, layer.scaling)

    def unlike(self, other: _Positions) -> str | None:
        """What differs, in words, with both values; None where nothing does."""
        if self.angles.shape != other.angles.shape or not torch.equal(self.angles, other.angles):
            return "other angles per position than Plumbline"
        for name, one, two in (
            ("cos and sin", self.attention, other.attention),
            ("the softmax", self.softmax, other.softmax),
        ):
            if not abs(one - two) <= 1e-12 * abs(two):
                return f"a scale of {name} of {one:.6g} in place of Plumbline's {two:.6g}"
        return None


def check(ours: PreTrainedConfig, theirs: PreTrainedConfig, parts: Parts, folder: Path) -> None:
    """Raises UsageError where a family's own classes make other positions of the folder's configuration than ours of ours."""
    try:
        read = _Positions.of(theirs, parts.of("modeling", "RotaryEmbedding"), parts.of("modeling", "Attention"))
    except Exception as error:  # what transformers says of settings that Plumbline does not read
        said = shown(str(error).partition("\n")[0] or type(error).__name__)
        raise UsageError(f"{folder}: transformers cannot read config.json ({said}); download it again") from None
    found = read.unlike(_Positions.of(ours, DeepseekV3RotaryEmbedding, DeepseekV3Attention))
    if found is not None:
        raise UsageError(
            f"{folder}: transformers makes {found} of the rotary settings in config.json; with rope_theta, rope_type, factor, "
            "original_max_position_embeddings, beta_fast, beta_slow, mscale and mscale_all_dim in rope_parameters, and no "
            "rotary setting elsewhere (head_dim, partial_rotary_factor, rope_scaling), it can be compared"
        )

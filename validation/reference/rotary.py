"""Whether transformers makes the same positions of a folder's config.json as of the numbers that were read there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from validation.case.errors import UsageError
from validation.case.model import Model
from validation.case.strangers import shown
from validation.reference.model import hf_config


@dataclass(frozen=True)
class _Positions:
    """What a configuration makes of positions: angles per position ([rotary elements / 2]) and two factors."""

    angles: torch.Tensor
    attention: float
    softmax: float

    @classmethod
    def of(cls, config: DeepseekV3Config) -> _Positions:
        rotary = DeepseekV3RotaryEmbedding(config)
        with torch.device("meta"):
            attention = DeepseekV3Attention(config, 0)
        return cls(rotary.inv_freq, rotary.attention_scaling, attention.scaling)

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


def check(model: Model, folder: Path) -> None:
    """Raises UsageError where the reference would not be the model that transformers loads from the folder."""
    try:
        theirs = _Positions.of(DeepseekV3Config.from_pretrained(folder))
    except Exception as error:  # what transformers says of settings that Plumbline does not read
        said = shown(str(error).partition("\n")[0] or type(error).__name__)
        raise UsageError(f"{folder}: transformers cannot read config.json ({said}); download it again") from None
    found = theirs.unlike(_Positions.of(hf_config(model)))
    if found is not None:
        raise UsageError(
            f"{folder}: transformers makes {found} of the rotary settings in config.json; with rope_theta, rope_type, factor, "
            "original_max_position_embeddings, beta_fast, beta_slow, mscale and mscale_all_dim in rope_parameters, and no "
            "rotary setting elsewhere (head_dim, partial_rotary_factor, rope_scaling), it can be compared"
        )

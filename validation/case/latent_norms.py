"""The epsilon of the latents' norms, which Megatron-Core takes from the model and transformers does not. No torch.

A candidate gets the reference's, so that all of it is judged at its own limit. One check stands for the difference
(docs/findings/latent-norm-epsilon.md).
"""

from __future__ import annotations

from validation.case.model import Model

EPSILON = 1e-6
"""Of both norms in transformers (DeepseekV3RMSNorm's default) and in the code that DeepSeek publishes."""
NAME = "latent_epsilon"
"""In the ranks' reports: what Megatron-Core has built; behind `GIVEN` what the norms compute with."""
GIVEN = "given/"
TITLE = "Latent Norm Epsilon"


def differs(model: Model) -> bool:
    """Whether the model's epsilon is another one."""
    return model.rms_norm_eps != EPSILON


def shape(model: Model) -> tuple[int, int]:
    """A row for each layer, MTP layers among them: the query latent's norm, if there is one, and that of key and value."""
    return len(model.blocks), 1 if model.q_lora_rank is None else 2

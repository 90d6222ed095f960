"""A decoded token's latent is written into another request's block, too.

Upstream wrote what it had computed again into a block that requests share, of which another one still read. Of that source only
an excerpt was read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="a decoded token's latent is written into another request's block, too",
    sources=(f"{CORE}/pull/7061",),
    first="decode/layers.0.attention.output",
    layouts=("single+dynamic",),
    cause="option +dynamic",
    needs="+dynamic",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def append(self: Any, layer_number: int, key: Any, value: Any) -> None:
            sound(self, layer_number, key, value)
            count = self.active_token_count
            if self.is_decode_only() and count > 1:
                others = self.token_to_block_idx[:count].roll(1)
                places = self.token_to_local_position_within_kv_block[:count]
                latents = key.squeeze(1)[:count]
                self.memory_buffer[self.layer_map[layer_number - 1], others, places] = latents

        return append

    replace("megatron.core.inference.contexts.dynamic_context", "DynamicInferenceContext.append_key_value_cache", made)

"""What the first chunk of a prompt has cached is lost when the second comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="what the first chunk of a prompt has cached is lost when the second comes",
    sources=("https://github.com/vllm-project/vllm/issues/26042",),
    first="prefill/layers.0.attention.output",
    layouts=("single+dynamic",),
    seq_length=96,
    cause="option +dynamic",
    needs="+dynamic",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def add(self: Any, request: Any, chunk_length: int | None = None) -> None:
            row = self.total_request_count - 1  # of a request that goes on, which is the last
            if request.finished_chunk_token_count:
                block = self.request_to_kv_block_ids[row, 0]
                self.memory_buffer[:, block, : request.finished_chunk_token_count] = 0
            sound(self, request, chunk_length)

        return add

    replace("megatron.core.inference.contexts.dynamic_context", "DynamicInferenceContext.add_request", made)

"""Where releases of megatron-core differ in how their inference is called."""

from __future__ import annotations

import inspect
from typing import Any

from validation.case.case import Case
from validation.compare.precision import DTYPES


def wrapped(wrapper: Any, case: Case, chunk: Any, context: Any, at_once: int) -> Any:
    """The model in megatron-core's wrapper. `at_once` is how many tokens one forward pass of a pipeline takes at most.

    Since 0.17 it stands in the model's configuration, and the wrapper takes none of its own.
    """
    if "inference_wrapper_config" not in inspect.signature(wrapper.__init__).parameters:
        return wrapper(chunk, context)
    from megatron.core.inference.model_inference_wrappers.inference_wrapper_config import InferenceWrapperConfig

    return wrapper(
        chunk,
        InferenceWrapperConfig(
            hidden_size=case.model.hidden_size,
            params_dtype=DTYPES[case.precision],
            inference_batch_times_seqlen_threshold=at_once,
            padded_vocab_size=case.model.vocabulary_rows,
            inference_max_requests=case.batch_size,
            inference_max_seq_length=context.max_sequence_length,
        ),
        context,
    )


def materialize(context: Any, *, last_alone: bool) -> None:
    """Have a forward pass make logits of last tokens alone, or of all. Since 0.17 the context's configuration says it."""
    where = context.config if hasattr(context, "config") else context
    where.materialize_only_last_token_logits = last_alone


def makes_dynamic_contexts(context: Any) -> bool:
    """Whether a dynamic context is made as in 0.16: before it counts requests otherwise, later it takes a configuration."""
    return {"buffer_size_gb", "max_requests"} <= set(inspect.signature(context.__init__).parameters)

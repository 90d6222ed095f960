"""The layer specs: which module stands at each place of megatron-core's model."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from typing import Any, cast

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.multi_token_prediction import MultiTokenPredictionBlockSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig

from validation.candidate import joined_latents, sparse
from validation.candidate.modules import CoreAttention, RMSNorm, StockCoreAttention
from validation.candidate.versions import DUPLICATED_LINEAR, of_stage
from validation.case.case import TE
from validation.case.errors import EnvironmentMissing, UsageError

SpecFunction = Callable[[MLATransformerConfig, int | None], TransformerBlockSubmodules]


def block_spec(implementation: str, config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The decoder block of `implementation`: `te` (with any core attention), `local`, `local-stock` or a user's own.

    The last is `package.module:function`.

    A user's function takes (config, vp_stage) and returns what megatron-core's get_gpt_decoder_block_spec returns.
    Raises UsageError where there is no such function, or one that returns something else.
    """
    known: dict[str, SpecFunction] = {**dict.fromkeys(TE, _te), "local": _local, "local-stock": _local_stock}
    if implementation in known:
        return known[implementation](config, vp_stage)
    found = users_function(implementation)(config, vp_stage)
    if not isinstance(found, TransformerBlockSubmodules):
        raise _wrong(implementation, f"it returns {found!r:.100}, and no TransformerBlockSubmodules")
    return found


def mtp_spec(
    implementation: str, config: MLATransformerConfig, block: TransformerBlockSubmodules, vp_stage: int | None
) -> MultiTokenPredictionBlockSubmodules | None:
    """The MTP layers around the decoder block's last layer, with its final norm for theirs; None where a chunk has none."""
    if config.mtp_num_layers is None:
        return None
    te = implementation in TE
    found: MultiTokenPredictionBlockSubmodules | None
    stage = of_stage(get_gpt_mtp_block_spec, vp_stage)
    if not block.layer_specs:  # a stage of MTP layers alone
        block = block_spec(implementation, _in_one_piece(config), None)
    found = get_gpt_mtp_block_spec(config, block, use_transformer_engine=te, **stage)
    for layer in found.layer_specs if found and not te else ():
        layer.submodules.enorm = layer.submodules.hnorm = layer.submodules.layer_norm = block.layer_norm
    return found


def _in_one_piece(config: MLATransformerConfig) -> MLATransformerConfig:
    """The configuration without a pipeline, for what is asked of the whole model."""
    whole = copy.copy(config)
    whole.pipeline_model_parallel_size, whole.virtual_pipeline_model_parallel_size = 1, None
    whole.pipeline_model_parallel_layout = None
    return whole


def _te(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    try:
        if sparse.is_sparse(config):
            return sparse.te_block(config, vp_stage)
        return get_gpt_decoder_block_spec(config, use_transformer_engine=True, **of_stage(get_gpt_decoder_block_spec, vp_stage))
    except (ImportError, NameError, AssertionError) as error:
        raise EnvironmentMissing(
            f"Transformer Engine does not work here ({error}); install it, or take --implementation local"
        ) from error


def _stock(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    stage = of_stage(get_gpt_decoder_block_spec, vp_stage)
    plain = sparse.without(config)
    return get_gpt_decoder_block_spec(plain, use_transformer_engine=False, normalization="RMSNorm", **stage)


def _local(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The structure of the Transformer Engine spec: whole down-projections on every rank, norms that know of the split."""
    block = _with_norms(_stock(config, vp_stage), config)
    for layer in block.layer_specs:
        if sparse.is_sparse(config):
            layer.submodules.self_attention = sparse.attention()
            continue
        attention = layer.submodules.self_attention.submodules
        attention.linear_q_down_proj = attention.linear_kv_down_proj = DUPLICATED_LINEAR
        attention.core_attention = CoreAttention
        if joined_latents.wanted(config):
            joined_latents.put_into(layer.submodules.self_attention)
    return block


def _local_stock(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """megatron-core's own local spec: column-parallel down-projections, its own core attention.

    Its norms are replaced by ours, which it needs under sequence parallelism, where its own refuse to be built.
    """
    block = _with_norms(_stock(config, vp_stage), config)
    for layer in block.layer_specs:
        layer.submodules.self_attention.submodules.core_attention = StockCoreAttention
    return block


def _with_norms(block: TransformerBlockSubmodules, config: MLATransformerConfig) -> TransformerBlockSubmodules:
    # megatron-core hands out the same spec object for every layer of a kind: a copy each keeps changes where they belong.
    block.layer_specs = [copy.deepcopy(layer) for layer in block.layer_specs]
    block.layer_norm = RMSNorm
    for layer in block.layer_specs:
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
        attention = layer.submodules.self_attention.submodules
        attention.kv_layernorm = RMSNorm if config.qk_layernorm else IdentityOp
        # Without a query latent there is nothing to norm: 0.19 refuses a norm that it would not build.
        attention.q_layernorm = IdentityOp if config.q_lora_rank is None else attention.kv_layernorm
    return block


def users_function(implementation: str) -> SpecFunction:
    """The function that `package.module:function` names. Raises UsageError where it is none that can be called as a spec is."""
    module_name, _, function_name = implementation.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise _wrong(implementation, f"importing {module_name} raised {error!r}") from error
    function: Any = getattr(module, function_name, None)
    if not callable(function):
        what = f"a {type(function).__name__}" if hasattr(module, function_name) else "not there"
        raise _wrong(implementation, f"{function_name} of {module_name} is {what}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise _wrong(implementation, f"it cannot be called with two arguments ({error})") from error
    except ValueError:
        pass  # what is written in C may have no signature
    return cast("SpecFunction", function)


def _wrong(implementation: str, what: str) -> UsageError:
    return UsageError(
        f"--implementation {implementation}: {what}; give package.module:function, a function (config, vp_stage) -> block spec"
    )

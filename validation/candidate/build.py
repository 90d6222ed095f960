"""Building the Megatron model of a case, in a rank."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.random import initialize_rng_tracker, model_parallel_cuda_manual_seed
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_config import MLATransformerConfig

from validation.candidate import gloo, variables
from validation.candidate.configured import Configure, configured
from validation.candidate.place import device
from validation.candidate.spec import block_spec, mtp_spec
from validation.candidate.typed import typed
from validation.candidate.versions import building, number_mtp_layers, of_stage
from validation.case import graphs, loss_scale, optimizers, pipeline_layout
from validation.case.case import Case


def start_groups(case: Case) -> None:
    """Make megatron-core's process groups for a case's layout; torch.distributed must have been initialised."""
    layout = case.layout
    with gloo.few_threads(case.transport):
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
            context_parallel_size=layout.cp,
            expert_model_parallel_size=layout.ep,
            expert_tensor_parallel_size=layout.expert_tp if layout.etp is not None or layout.ep > 1 else None,
            create_gloo_process_groups=False,
            num_distributed_optimizer_instances=optimizers.instances(case.training),
            **_hierarchy(case),
            **_embedding_ranks(case),
        )


def _hierarchy(case: Case) -> dict[str, Any]:
    """The groups of cp_comm_type a2a+p2p, the inner one first. A training script hands them on."""
    sizes = case.training.effective("model").get("hierarchical_context_parallel_sizes")
    return {"hierarchical_context_parallel_sizes": list(sizes)} if isinstance(sizes, tuple) else {}


def _embedding_ranks(case: Case) -> dict[str, Any]:
    """Which ranks of a pipeline share the embedding, if a pipeline layout puts MTP layers elsewhere than on the last one.

    Megatron-LM's pretrain_gpt.py says it to megatron-core, whose own answer is the first rank and the last.
    """
    text = pipeline_layout.given(case)
    if text is None or not case.model.mtp_layers:
        return {}
    layout = case.layout
    holding = {at % layout.pp for at, row in enumerate(pipeline_layout.parse(text)) if "m" in row}
    sharing = sorted({0} | holding | ({layout.pp - 1} if case.model.tie_word_embeddings else set()))
    return {"get_embedding_ranks": lambda ranks, split=None: [ranks[at] for at in sharing]}


def start_random_numbers(case: Case) -> None:
    """What megatron-core's modules draw from when they are built. Once, before the first of them."""
    # Without CUDA there is no CUDA seed to track, and with dropout 0 nothing draws from it.
    kind = random_numbers(case)
    initialize_rng_tracker(**kind, inference_rng_tracker=not torch.cuda.is_available())
    if torch.cuda.is_available():
        model_parallel_cuda_manual_seed(case.seed)
        torch.manual_seed(case.seed)
    else:
        # torch.manual_seed would keep calls for devices that are not there, each with its formatted stack.
        torch.default_generator.manual_seed(case.seed)


def random_numbers(case: Case) -> dict[str, bool]:
    """Which of megatron-core's trackers of random numbers a case's settings ask for, as initialize_rng_tracker has it.

    A training script hands it on: under CUDA graphs none but one that graphs can record, which is Transformer Engine's own if
    that records them, whatever use_te_rng_tracker says.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/training/initialize.py
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/training/arguments.py (`validate_args`)
    """
    model = case.training.effective("model")
    who = graphs.by(model)
    return {
        "use_te_rng_tracker": model.get("use_te_rng_tracker") is True or who == graphs.TE,
        "use_cudagraphable_rng": who != graphs.NONE,
    }


def build(case: Case, configure: Configure = lambda case, config: None) -> list[GPTModel]:
    """The model chunks of this rank, one per virtual pipeline stage, parameters not yet meaningful.

    `configure` may change the configuration before anything is built from it.
    """
    variables.settle(case)
    start_random_numbers(case)
    made = configured(case, configure)
    stages: list[int | None] = list(range(case.layout.vpp)) if case.layout.vpp > 1 else [None]
    chunks = []
    for stage in stages:
        with building(stage), made.building():
            chunks.append(_chunk(case, made.config, stage))
    return chunks


def build_stage(case: Case, stage: int, configure: Configure = lambda case, config: None) -> GPTModel:
    """The model with one of its layers, by the checkpoint's number: the first with the embedding, the last with the head.

    As a stage of a pipeline of as many stages as layers would be, in a process that is all of them in turn. MTP layers are a
    stage of their own, the last.
    """
    variables.settle(case)
    made = configured(case, configure)
    with made.building():
        return _stage(case, made.config, stage)


def _stage(case: Case, config: MLATransformerConfig, stage: int) -> GPTModel:
    block = copy.copy(block_spec(case.implementation, config, None))
    multi_token = stage in case.model.mtp_layers
    mtp = mtp_spec(case.implementation, config, block, None) if multi_token else None
    block.layer_specs = [] if multi_token else [block.layer_specs[stage]]
    model = _model(case, config, block, mtp, None, stage == 0, stage == case.model.blocks[-1])
    for built in model.decoder.layers:
        built.layer_number = stage + 1
        if hasattr(built.mlp, "set_layer_number"):
            built.mlp.set_layer_number(stage + 1)
    decoder = model.decoder
    if case.model.mtp_layers and stage == case.model.num_hidden_layers - 1 and decoder.final_layernorm is None:
        # Before MTP layers megatron-core has the final norm in the stage of the last layer, which it knows by its number.
        decoder.final_layernorm = build_module(
            block.layer_norm, config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon
        ).to(device())
    return model


def _chunk(case: Case, config: MLATransformerConfig, stage: int | None) -> GPTModel:
    block = block_spec(case.implementation, config, stage)
    ends = (parallel_state.is_pipeline_first_stage, parallel_state.is_pipeline_last_stage)
    first, last = (end(ignore_virtual=False, **of_stage(end, stage)) for end in ends)
    mtp = mtp_spec(case.implementation, config, block, stage)
    return _model(case, config, block, mtp, stage, first, last)


def _model(
    case: Case, config: MLATransformerConfig, block: Any, mtp: Any, stage: int | None, first: bool, last: bool
) -> GPTModel:
    model = GPTModel(
        config=config,
        transformer_layer_spec=block,
        mtp_block_spec=mtp,
        vocab_size=case.model.vocabulary_rows,
        max_sequence_length=case.seq_length,
        pre_process=first,
        post_process=last,
        parallel_output=True,
        share_embeddings_and_output_weights=case.model.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=int(case.model.rope_theta),
        **of_stage(GPTModel, stage),
    )
    number_mtp_layers(model, case.model.num_hidden_layers)
    return model.to(device=device())


def ddp_config(case: Case) -> DistributedDataParallelConfig:
    """The configuration of gradient buffers. Those of bf16 parameters are in float32, as DeepSeek-V3 is trained."""
    wanted = {"grad_reduce_in_fp32": case.precision in ("bf16", "fp16"), **case.training.effective("ddp")}
    return DistributedDataParallelConfig(**typed(DistributedDataParallelConfig, wanted))


def wrap(chunks: list[GPTModel], case: Case) -> list[DistributedDataParallel]:
    """The chunks under megatron-core's DistributedDataParallel, with gradients finalised by megatron-core."""
    config, ddp = chunks[0].config, ddp_config(case)
    modules = [_mixed(chunk) for chunk in chunks] if case.has_masters else chunks
    with _beside_default_stream(case):
        wrapped = [
            DistributedDataParallel(config=config, ddp_config=ddp, module=module, disable_bucketing=index > 0)
            for index, module in enumerate(modules)
        ]
    config.finalize_model_grads_func = finalize_model_grads
    if (scale := loss_scale.first(case)) != 1.0:
        config.grad_scale_func = lambda loss: loss * scale  # until there is an optimizer, which knows it
    config.no_sync_func = [chunk.no_sync for chunk in wrapped] if len(wrapped) > 1 else wrapped[0].no_sync
    return wrapped


@contextlib.contextmanager
def _beside_default_stream(case: Case) -> Iterator[None]:
    """Within it the GPU computes on a stream of its own where CUDA graphs are recorded, as upstream's get_model has it.

    A backward pass ends on the stream on which gradients are first asked for here, and the default one cannot be recorded.
    """
    if graphs.by(case.training.effective("model")) == graphs.NONE:
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _mixed(chunk: GPTModel) -> Float16Module:
    """The chunk in megatron-core's Float16Module, as it is trained below fp32.

    That rounds buffers, too: the routers' biases, which are float32. Training loads a checkpoint afterwards; here each module
    gets its buffers back.
    """
    buffers = [(module, dict(module._buffers)) for module in chunk.modules()]
    mixed = Float16Module(chunk.config, chunk)
    for module, own in buffers:
        module._buffers.update(own)
    return mixed

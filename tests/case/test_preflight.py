"""Every impossible case is refused with one sentence that says what would work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from validation.case import memory, preflight
from validation.case.case import Case
from validation.case.errors import EnvironmentMissing, PlumblineError, UsageError
from validation.case.layout import Layout
from validation.case.preset import MINI, TINY, Preset
from validation.case.training import Training

GIB = 2**30


MTP = {"num_nextn_predict_layers": 1}
SPARSE = {"index_topk": 8, "index_n_heads": 4, "index_head_dim": 32}
STATIC = Training(inference="static")
DYNAMIC = Training(inference="dynamic")
JOINED = Training().with_settings({"model.mla_down_proj_fusion": True})
ON_CARD: dict[str, Any] = {"precision": "bf16", "implementation": "te", "transport": "staged"}
GRAPHS = Training(steps=2).with_settings({"model.cuda_graph_impl": "transformer_engine"})
GRAPHS_OF_ATTENTION = GRAPHS.with_settings({"model.cuda_graph_scope": "attn,mlp"})
PADDED = STATIC.with_settings({"model.moe_expert_capacity_factor": 8.0, "model.moe_pad_expert_input_to_capacity": True})


def case(layout: str = "single", model: dict[str, Any] | None = None, preset: Preset = TINY, **changes: Any) -> Case:
    """A tiny case on the CPU, with changes to the model and to the case."""
    numbers = {"precision": "fp64", "implementation": "local", "transport": "gloo", "seed": 1234}
    own = {"batch_size": 8, "micro_batch_size": 2, "seq_length": 48}
    data = {word: getattr(preset, word) if preset is not TINY else own[word] for word in own}
    return Case(preset.name, replace(preset.model, **(model or {})), Layout.parse(layout), **{**numbers, **data, **changes})


def refusal(of: Case, max_ranks: int = 64, gpus: int | None = 64, available: int | None = None) -> PlumblineError | None:
    """What `check` raises, if anything."""
    try:
        preflight.check(of, max_ranks=max_ranks, gpus=gpus, memory=available)
    except PlumblineError as error:
        return error
    return None


@pytest.mark.parametrize(
    "layout",
    [
        "single",
        "tp2",
        "tp4",
        "pp2",
        "pp2vpp2",
        "pp4",
        "ep2",
        "ep16",
        "tp2ep2",
        "ep2etp2",
        "tp2pp2",
        "cp2",
        "cp2dp2",
        "tp2cp2",
        "tp2ep4etp1",
    ],
)
def test_tiny_runs_under_every_kind_of_layout(layout: str) -> None:
    """No rule refuses what megatron-core can do."""
    batch = 64 if layout == "ep16" else 8
    assert refusal(case(layout, batch_size=batch)) is None


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("layout", ["single", "tp2", "pp4", "pp2vpp2", "ep2", "cp2", "tp2pp2"])
def test_mtp_layers_run_under_every_kind_of_layout(layout: str, layers: int) -> None:
    """They are on the last stage, beside its share of the others."""
    assert refusal(case(layout, model={"num_nextn_predict_layers": layers})) is None


@pytest.mark.parametrize(
    "training",
    [
        {"steps": 2},
        {"loss": "mean"},
        {"balancing": "z_loss"},
        {"balancing": "seq_aux_loss", "loss": "mean", "steps": 2, "optimizer": "distributed", "recompute": "full"},
    ],
)
def test_mtp_layers_go_with_every_option_of_a_step(training: dict[str, Any]) -> None:
    assert refusal(case("tp2ep2", model={"num_nextn_predict_layers": 2}, training=Training(**training))) is None


def test_a_sequence_of_one_token_is_enough_without_mtp() -> None:
    """What an MTP layer needs is asked of no other model."""
    assert refusal(case(seq_length=1)) is None


@pytest.mark.parametrize("implementation", ["local", "local-stock", "my_company.spec:build", "spec:_layer2"])
def test_implementations_of_megatron_and_of_users_are_known(implementation: str) -> None:
    """A user's own spec is package.module:function."""
    assert refusal(case("tp2", implementation=implementation)) is None


MOE_ONLY = {"first_k_dense_replace": 0}
MTP = {"num_nextn_predict_layers": 1}
BY_TWOS = Training(recompute="full").with_settings({"model.recompute_num_layers": 2})


def grouped(group: int) -> Training:
    """So many micro-batches in a row in each virtual stage."""
    return Training().with_settings({"model.microbatch_group_size_per_vp_stage": group})


PACKED_PADDED = Training(data_shape="packed-padded")
MASKED = Training(padding_logits="masked")
STREAM = Training(stream=True)
EXPERTS_OVERLAP = Training(settings=(("model.overlap_moe_expert_parallel_comm", True),))
TE_IN_BF16: dict[str, Any] = {"implementation": "te", "precision": "bf16", "transport": "nccl"}
LEVELS = (("model.cp_comm_type", "a2a+p2p"), ("model.hierarchical_context_parallel_sizes", (2, 1)))
BUFFERS = case("tp2", training=Training(settings=(("model.tp_comm_overlap", True),)), **{**TE_IN_BF16, "transport": "staged"})
IMPOSSIBLE: list[tuple[str, Case, str]] = [
    # what the case is made of
    ("precision", case(precision="fp12"), "precision 'fp12' is unknown; known are fp64, fp32, bf16 and fp16"),
    ("transport", case(transport="mpi"), "transport 'mpi' is unknown; known are gloo, nccl, staged and staged-cpu"),
    (
        "implementation",
        case(implementation="tee"),
        "known are local, local-stock, te, te-unfused, te-fused and te-flash, or your own layer spec as package.module:func",
    ),
    ("own implementation", case(implementation="spec:"), "implementation 'spec:' is unknown"),
    ("size of nothing", case(model={"n_group": 0}), "n_group is 0; it must be a whole number of at least 1"),
    ("half a size", case(model={"hidden_size": 64.5}), "hidden_size is 64.5"),
    ("rope type", case(model={"rope_type": "llama3"}), "rope_type 'llama3' is unknown; known are yarn and default"),
    (
        "rows of experts",
        case(model={"moe_intermediate_size": 15}, precision="bf16"),
        "multiples of 8; 16 works, or --precision fp64",
    ),
    ("half a pair", case(model={"qk_rope_head_dim": 7}), "qk_rope_head_dim is 7, and rotary .*pairs of elements; 6 or 8 works"),
    ("less than a pair", case(model={"qk_rope_head_dim": 1}), "pairs of elements; 2 works"),
    ("no base", case(model={"rope_theta": 0.0}), "rope_theta is 0.0; it must be a number greater than 1"),
    ("a base without frequencies", case(model={"rope_theta": 1.0}), "rope_theta is 1.0; it must be"),
    ("an epsilon below 0", case(model={"rms_norm_eps": -1.0}), "rms_norm_eps is -1.0; it must be a number of at least 0"),
    ("no epsilon", case(model={"rms_norm_eps": float("nan")}), "rms_norm_eps is nan; it must be a number of at least 0"),
    ("words for a number", case(model={"rms_norm_eps": "1e-6"}), "rms_norm_eps is '1e-6'; it must be a number"),
    ("an infinite factor", case(model={"rope_factor": float("inf")}), "rope_factor is inf; it must be a number greater"),
    ("a choice of experts", case(model={"topk_method": "top"}), "known are noaux_tc, greedy and group_limited_greedy"),
    ("MTP of DeepSeek-V2", case(model={"topk_method": "greedy", **MTP}), "of DeepSeek-V2, which has no MTP layers"),
    (
        "groups of DeepSeek-V2",
        case(model={"topk_method": "group_limited_greedy"}),
        "best 2 .* HuggingFace by its best 1,",
    ),
    (
        "a setting of other routers",
        case(model={"topk_method": "greedy"}, training=Training().with_settings({"model.moe_router_pre_softmax": False})),
        "moe_router_pre_softmax is of DeepSeek-V3's routers",
    ),
    ("experts that count for nothing", case(model={"routed_scaling_factor": 0.0}), "routed_scaling_factor is 0.0; it must be"),
    ("seed", case(seed=99999999999999999999999), "--seed 99999999999999999999999 does not fit in 64 bits; --seed 9999 works"),
    ("seed of the last step", case(seed=2**63 - 1, training=Training(steps=2)), "does not fit in 64 bits"),
    ("no batch", case(batch_size=0), "batch_size is 0"),
    ("te on gloo", case(implementation="te", precision="fp32"), "te cannot run on gloo; --implementation local can"),
    ("te in fp64", case(implementation="te", transport="nccl"), "no fp64 kernels; --precision fp32 works"),
    (
        "te in fp32 with cp",
        case("cp2", **{**TE_IN_BF16, "precision": "fp32"}),
        "te in fp32 cannot run with cp2: .*--implementation te --precision bf16 works, or --implementation local",
    ),
    ("te-unfused with cp", case("cp4", **{**TE_IN_BF16, "implementation": "te-unfused"}), "^te-unfused cannot run with cp4"),
    # the options of a step
    ("option", case(training=Training(loss="sum")), "loss 'sum' is unknown; known are token and mean"),
    (
        "steps",
        case(training=Training(life="step-overflow-step", steps=2)),
        "skips a step that overflows in fp16 only; --precision fp16 does",
    ),
    (
        "loss scale",
        case(precision="fp16", training=Training(steps=1).with_settings({"optimizer.hysteresis": 0})),
        "optimizer.hysteresis is 0; it must be a whole number of at least 1",
    ),
    (
        "loss scale of bf16",
        case(precision="bf16", training=Training(steps=1).with_settings({"optimizer.loss_scale": 128.0})),
        "optimizer.loss_scale=128.0 is compared in fp16 alone; --precision fp16 works",
    ),
    (
        "distributed SGD",
        case("dp2", training=Training(steps=1, optimizer="distributed").with_settings({"optimizer.optimizer": "sgd"})),
        r"cannot be distributed: .* leave out \+distributed",
    ),
    (
        "SGD resumed",
        case(training=Training(life="step-resume-step", steps=2).with_settings({"optimizer.optimizer": "sgd"})),
        "cannot load a checkpoint of SGD",
    ),
    (
        "sums in fp16",
        case(precision="fp16", training=Training(steps=1).with_settings({"ddp.grad_reduce_in_fp32": False})),
        "cannot be compared in fp16, .*--precision bf16 works",
    ),
    (
        "sums of isolated modules",
        case(precision="bf16", isolated=True, training=Training().with_settings({"ddp.grad_reduce_in_fp32": False})),
        r"has no isolated modules \(leave out --isolated\)",
    ),
    (
        "moments in bytes",
        case(**TE_IN_BF16, training=Training(steps=1).with_settings({"optimizer.exp_avg_dtype": "uint8"})),
        "optimizer.exp_avg_dtype=uint8 cannot be compared: the reference has moments in float32",
    ),
    (
        "offload of plain masters",
        case(**TE_IN_BF16, training=Training(steps=1).with_settings({"optimizer.optimizer_cpu_offload": True})),
        r"in bf16 steps what a precision-aware optimizer has; add \+distributed\+optimizer.use_precision_aware_optimizer",
    ),
    (
        "instances",
        case("dp4", training=Training(optimizer="distributed").with_settings({"ddp.num_distributed_optimizer_instances": 3})),
        "=3 does not divide the 4 data-parallel ranks; 1, 2 or 4 works",
    ),
    (
        "momentum",
        case(training=Training(steps=1).with_settings({"optimizer.optimizer": "sgd", "optimizer.sgd_momentum": 1.5})),
        "give a number from 0 to below 1, such as 0.9",
    ),
    (
        "a beta of 1",
        case(training=Training(steps=1).with_settings({"optimizer.adam_beta1": 1.0})),
        "adam_beta1 is 1; give a number from 0 to below 1, such as 0.9",
    ),
    (
        "epsilon",
        case(training=Training(steps=1).with_settings({"optimizer.adam_eps": 0.0})),
        "adam_eps is 0, and an element whose gradients are all 0 is divided by it; give a number above 0, such as 1e-8",
    ),
    (
        "what no CPU has",
        case(training=Training().with_settings({"model.use_ring_exchange_p2p": True})),
        "model.use_ring_exchange_p2p=true needs a torch that was built with ring_exchange, which is for GPUs; leave it out",
    ),
    (
        "balancing the other way",
        case(training=Training(balancing="aux_loss").with_settings({"model.moe_aux_loss_coeff": -1.0})),
        "moe_aux_loss_coeff=-1 balances nothing in Megatron-Core; give a number of 0 or more",
    ),
    (
        "zeros by chance",
        case(precision="bf16", training=Training(steps=1).with_settings({"optimizer.log_num_zeros_in_grad": True})),
        "cannot be compared in bf16, .*--precision fp64 or fp32 works",
    ),
    ("life", case("tp2", training=Training(life="step-resume-tp4-step", steps=2)), "goes on in tp4, which has 4 ranks"),
    (
        "steps of no parameter",
        case("pp2ep2", {"num_hidden_layers": 2}, training=Training(life="step-save-step", steps=2, optimizer="distributed")),
        r"in pp2ep2 pipeline stage 1 has no experts: .* leave \+distributed out, or give each stage a layer of experts",
    ),
    (
        "life that gathers late",
        case("dp2", training=Training(life="step-save-step", steps=2).with_settings({"ddp.overlap_param_gather": True})),
        "a life has no overlap_param_gather",
    ),
    (
        "schedule",
        case(training=Training(steps=2).with_settings({"optimizer.min_lr": 1.0})),
        "optimizer.min_lr is 1 and optimizer.lr 0.01; give a smallest rate from 0 to 0.01",
    ),
    ("stages", case("pp2", training=Training(stages=(1, 1, 2))), r"\+1-1-2 gives the layers of 3 .* has pp2; give 2 numbers"),
    ("layers of stages", case("pp2", training=Training(stages=(1, 2))), r"\+1-2 gives 3 layers .* the model has 4"),
    ("empty stage", case("pp2", training=Training(stages=(4, 0))), "each stage takes at least one"),
    ("interleaved stages", case("pp2vpp2", training=Training(stages=(1, 3))), "without interleaving only; leave out vpp2"),
    (
        "middle stages",
        case("pp4", {"num_hidden_layers": 8}, training=Training(stages=(1, 2, 3, 2))),
        "give those between the same",
    ),
    ("grouped experts", case(training=Training(experts="grouped")), "--implementation te has them"),
    (
        "nothing to balance",
        case(model={"first_k_dense_replace": 4}, training=Training(balancing="aux_loss")),
        "is of experts and the model has none",
    ),
    # layer by layer
    ("streamed stages", case("pp2", training=STREAM), "has no pipeline stages .*; tp, ep, etp, cp and dp work"),
    (
        "streamed MTP",
        case("tp2", model=MTP, training=STREAM),
        r"on several ranks \(leave out \+mtp, or take .* single\)",
    ),
    (
        "streamed MTP layers",
        case(model={"num_nextn_predict_layers": 2}, training=STREAM),
        "no more than one layer of multi",
    ),
    (
        "isolated steps",
        replace(case(training=Training(steps=1)), isolated=True),
        "compares the modules of one forward and backward pass; leave out --steps",
    ),
    ("streamed steps", case(training=replace(STREAM, steps=1)), r"no optimizer steps, .*\(--steps 0 works\)"),
    ("streamed optimizer", case("dp2", training=replace(STREAM, optimizer="distributed")), r"leave out \+distributed"),
    ("streamed and tied", case(model={"tie_word_embeddings": True}, training=STREAM), "has no tied embeddings"),
    ("streamed balancing", case(training=replace(STREAM, balancing="aux_loss")), "has no balancing losses"),
    ("streamed means", case(training=replace(STREAM, loss="mean")), "--loss token works"),
    ("streamed recompute", case(training=replace(STREAM, recompute="full")), "each layer is computed again anyway"),
    # products in fp8; further cases in test_fp8_cases.py
    ("fp8 without te", case(training=Training(fp8="delayed")), "--implementation te has them, or leave out"),
    (
        "a pair of fp8",
        case(training=Training().with_settings({"model.fp8": "hybrid", "model.fp8_recipe": "blockwise"}), **TE_IN_BF16),
        "has no formula in the reference; hybrid with delayed",
    ),
    (
        "padding without fp8",
        case(training=Training().with_settings({"model.moe_router_padding_for_quantization": True}), **TE_IN_BF16),
        "pads tokens for products in fp8, and this case has none; leave it out",
    ),
    ("isolated fp8", case(training=Training(fp8="blockwise"), isolated=True, **TE_IN_BF16), "leave out --isolated"),
    ("a latent for fp8", case(training=Training(fp8="delayed"), **TE_IN_BF16), "q_lora_rank is 24, and 16 or 32 works"),
    # tensor parallelism
    ("heads", case("tp3"), "tp3 does not divide the 4 attention heads; tp1, tp2 and tp4 do"),
    ("vocabulary", case("tp2", {"vocab_size": 129}), r"the 129 rows of the vocabulary; tp2\+vocab1 pads them to 130"),
    ("padding", case("tp2", {"padded_vocab_size": 161}), "the 161 rows of the vocabulary; --set padded_vocab_size=162 works"),
    ("dense MLP", case("tp2", {"intermediate_size": 97}), r"tp2 does not divide the 97 .*\(intermediate_size\); tp1 does"),
    (
        "shared expert",
        case("tp4ep2", {"moe_intermediate_size": 34}),
        "tp4 does not divide the 34 inner elements of the shared expert .*; tp1 and tp2 do",
    ),
    (
        "two shared experts",
        case("tp4ep2", {"moe_intermediate_size": 33, "n_shared_experts": 2}),
        "tp4 does not divide the 66 .* of the shared expert",
    ),
    (
        "KV latent",
        case("tp4", {"kv_lora_rank": 18}, implementation="local-stock"),
        r"tp4 does not divide the 50 .*kv_lora_rank \+ qk_rope_head_dim",
    ),
    (
        "query latent",
        case("tp4", {"q_lora_rank": 26}, implementation="local-stock"),
        "tp4 does not divide the 26 .*q_lora_rank",
    ),
    (
        "experts there are none",
        case("ep2", {"first_k_dense_replace": 4}),
        "ep2 spreads experts over ranks and the model has none; ep1 works, and dp for more ranks",
    ),
    ("expert", case("ep2etp3"), "etp3 does not divide the 32 inner elements of an expert .*; etp1, etp2 and etp4 do"),
    ("no sp", case("tp2nosp"), "refuses to train experts with tp2 and no sequence parallelism; tp2 works"),
    ("sequence over tp", case("tp4", seq_length=50), "multiple of 4, which 50 is not; --seq-length 48 or 52 works"),
    ("sequence over cp", case("cp2", seq_length=50), "multiple of 4, which 50 is not"),
    ("sequence over tp and cp", case("tp4cp2", seq_length=44), "multiple of 8, which 44 is not; --seq-length 40 or 48 works"),
    (
        "yarn's table over cp",
        case("cp3"),
        "cp3 does not cut .* yarn's 4096 positions .* into 6 equal parts; cp1, cp2 and cp4 do",
    ),
    ("another length would not help", case("cp5", seq_length=48), "cp5 does not cut .* into 10 equal parts; cp2, cp4 and cp8"),
    ("yarn's odd table", case("cp2", {"original_max_position_embeddings": 4097}), "into 4 equal parts; only cp1 does"),
    ("sequence too short", case("cp2", seq_length=2), "--seq-length 4 works"),
    ("stock cp", case("cp2", implementation="local-stock"), "no context parallelism; --implementation local or te has"),
    # pipeline parallelism
    ("pp", case("pp3"), "pp3 does not divide the 4 layers into equal stages; pp1, pp2 and pp4 do"),
    ("too many stages", case("pp8"), "pp8 does not divide the 4 layers .*; pp2 and pp4 do"),
    ("vpp", case("pp2vpp3"), "vpp3 does not divide the 2 layers of a stage of pp2; vpp1 and vpp2 do"),
    ("vpp alone", case("vpp2"), "vpp2 needs pp of at least 2; pp2vpp2 works"),
    (
        "micro-batches for vpp",
        case("pp2vpp2", batch_size=6),
        "sets of pp2, and the batch has 3 on each rank; --batch-size 4 or 8 works",
    ),
    (
        "gathering beside the step",
        case("dp2", training=Training(steps=1).with_settings({"optimizer.overlap_param_gather_with_optimizer_step": True})),
        r"pp2vpp2\+distributed\+ddp.overlap_grad_reduce\+ddp.overlap_param_gather has them",
    ),
    (
        "average of sums",
        case("dp2", training=Training().with_settings({"ddp.average_in_collective": True})),
        "a loss per token, .*; --loss mean works",
    ),
    (
        "scaling by layer",
        case(training=Training().with_settings({"model.apply_query_key_layer_scaling": True})),
        "--implementation local-stock or te has it",
    ),
    (
        "one down-projection of one latent",
        case(model={"q_lora_rank": None}, training=JOINED),
        "joins the down-projections of query and key, and this model has no q_lora_rank",
    ),
    (
        "one down-projection of the stock spec",
        case(training=JOINED, implementation="local-stock"),
        "is not read by Megatron-Core's own local spec; --implementation local or te has it",
    ),
    (
        "graphs of whole layers",
        case(training=GRAPHS, **ON_CARD),
        "CUDA graphs of whole layers have routers in them, .*; model.cuda_graph_scope=attn works",
    ),
    (
        "graphs of routers",
        case(training=GRAPHS.with_settings({"model.cuda_graph_modules": ("attn", "moe_router")}), **ON_CARD),
        "CUDA graphs of moe_router have routers in them, ",
    ),
    (
        "graphs of whole layers by megatron-core",
        case(training=Training(steps=2).with_settings({"model.enable_cuda_graph": True}), **ON_CARD),
        "cannot record one with experts; transformer_engine with model.cuda_graph_scope=attn works",
    ),
    (
        "graphs of exchanges",
        case("tp2", training=GRAPHS_OF_ATTENTION, **ON_CARD),
        "have exchanges of ranks in them, .*; --transport nccl works, .* or a layout without tp and cp",
    ),
    (
        "graphs that nothing replays",
        case(training=replace(GRAPHS_OF_ATTENTION, steps=1), **ON_CARD),
        "no step of this case replays them; --steps 2 works",
    ),
    (
        "graphs in fp32",
        case(training=GRAPHS_OF_ATTENTION, **{**ON_CARD, "precision": "fp32"}),
        "in bf16 alone, not in fp32; --precision bf16 works",
    ),
    (
        "graphs of other layers",
        case(training=GRAPHS_OF_ATTENTION, **{**ON_CARD, "implementation": "local"}),
        "are of its layers, and local has others; --implementation te has them",
    ),
    (
        "graphs in fp32 that nothing replays",
        case(training=replace(GRAPHS_OF_ATTENTION, steps=0), **{**ON_CARD, "precision": "fp32"}),
        "not in fp32; --precision bf16 with --steps 2 works",
    ),
    (
        "graphs of documents",
        case(training=replace(GRAPHS_OF_ATTENTION, data_shape="packed"), **ON_CARD),
        "no packed sequences in CUDA graphs; leave out",
    ),
    (
        "recompute no layer at a time",
        case(training=Training(recompute="full").with_settings({"model.recompute_num_layers": 0})),
        "recompute_num_layers=0 never ends, .*; 1 works",
    ),
    (
        "MTP layers recomputed by twos",
        case(model={"num_nextn_predict_layers": 1}, training=BY_TWOS),
        "recompute_num_layers=2 cannot run beside an MTP layer: .*; recompute_num_layers=1 works",
    ),
    (
        "a group of one",
        case("pp2vpp2", training=grouped(1), batch_size=8),
        "=1 does not fit 4 micro-batches .*; 2 and 4 work, or",
    ),
    (
        "a group of three",
        case("pp2vpp2", training=grouped(3), batch_size=8),
        "=3 does not fit 4 .* what is left 2 or none; 2 and 4",
    ),
    (
        "a group of all and more",
        case("pp2vpp2", training=grouped(4), batch_size=4),
        "=4 does not fit 2 .*; 2 works, or a larger --b",
    ),
    # experts
    ("ep", case("ep3"), "ep3 does not divide the 16 experts; ep1, ep2 and ep4 do"),
    ("more ep than experts", case("ep32", batch_size=64), "ep32 does not divide the 16 experts; ep8 and ep16 do"),
    ("groups", case(model={"n_group": 3}), "n_group 3 does not divide the 16 experts; n_group 1, n_group 2 and n_group 4 do"),
    ("groups of one", case(model={"n_group": 16}), "groups of 1 expert, .* n_group 8 works$"),
    (
        "groups of one of odd experts",
        case(model={"n_group": 9, "n_routed_experts": 9}),
        "groups of 1 expert, .* n_group 3 works$",
    ),
    (
        "a group of the only expert",
        case(model={"n_group": 1, "topk_group": 1, "n_routed_experts": 1, "num_experts_per_tok": 1}),
        "groups of 1 expert, .* n_routed_experts 2 works$",
    ),
    ("topk_group", case(model={"topk_group": 5}), "topk_group 5 is more than n_group 4; topk_group 1 to 4 works"),
    ("too many chosen", case(model={"num_experts_per_tok": 9}), "9 is more than the 8 experts of 2 chosen groups"),
    (
        "one expert",
        case(model={"num_experts_per_tok": 1, "topk_group": 1}),
        "num_experts_per_tok is 1, where Megatron-Core does not normalise",
    ),
    (
        "group scores",
        case(model={"num_experts_per_tok": 2}),
        r"by its best 1 expert .* by its best 2.*; num_experts_per_tok 4 works, or n_group 1 with topk_group 1",
    ),
    (
        "no shared expert",
        case(model={"n_shared_experts": 0}),
        "gives every layer of experts a shared one; n_shared_experts 1 works",
    ),
    # multi-token prediction
    (
        "MTP without experts",
        case(model={"num_nextn_predict_layers": 1, "first_k_dense_replace": 4}),
        "which is dense here, and HuggingFace gives it experts; first_k_dense_replace up to 3 works",
    ),
    ("MTP of nothing", case(model={"num_nextn_predict_layers": 2}, seq_length=3), "nothing to predict; --seq-length 24 works"),
    ("MTP loss", case("tp2", training=Training(mtp_loss="report")), r"tp2\+mtp\+mtp-report has one"),
    (
        "short documents",
        case(training=Training(data_shape="documents"), seq_length=7),
        "several documents; --seq-length 8 works",
    ),
    (
        "two packed sequences",
        case(training=Training(data_shape="packed")),
        r"single\+packed: .* one packed sequence in a micro-batch and micro_batch_size is 2; --micro-batch-size 1 works",
    ),
    (
        "packed and cut",
        case("cp2", micro_batch_size=1, training=Training(data_shape="packed")),
        r"into equal parts, for which it must be padded; cp2\+packed-padded works",
    ),
    (
        "padded documents of odd lengths",
        case(micro_batch_size=1, training=PACKED_PADDED, seq_length=20),
        "multiples of 8; --seq-length 16 works",
    ),
    (
        "padded documents cut too often",
        case("cp8", micro_batch_size=1, training=PACKED_PADDED, seq_length=64),
        "multiples of 8, which cp8 cannot cut; cp2 and cp4 work",
    ),
    (
        "padded documents of a file",
        case(micro_batch_size=1, training=PACKED_PADDED, data="x.jsonl", data_digest="0"),
        "takes no file of tokens; leave out --data",
    ),
    (
        "packed and stock",
        case(micro_batch_size=1, implementation="local-stock", training=Training(data_shape="packed")),
        "own core attention has no packed sequences; --implementation local works",
    ),
    (
        "short padding",
        case(training=Training(data_shape="padded"), seq_length=7),
        "a document and padding; --seq-length 8 works",
    ),
    (
        "balancing per token",
        case(training=Training(data_shape="padded", balancing="aux_loss")),
        r"weighs the balancing loss of each micro-batch .*; single\+aux\+padded\+mean works",
    ),
    (
        "balancing of two sequences",
        case(training=Training(data_shape="padded", balancing="seq_aux_loss", loss="mean")),
        "as if all had its average number of real tokens; --micro-batch-size 1 works",
    ),
    (
        "a mean of ranks",
        case("tp2", training=Training(data_shape="padded", balancing="z_loss", loss="mean")),
        "the mean of each rank's mean z-loss, .*; tp1 and cp1 work",
    ),
    (
        "padding to mask",
        case("tp2", training=MASKED),
        r"is about the padding of a vocabulary, and tp2\+masked-logits has none; tp2\+vocab128\+masked-logits has",
    ),
    (
        "isolated head",
        case(model={"padded_vocab_size": 256}, training=MASKED, isolated=True),
        r"the logits of the reference, which have no mask; leave out \+masked-logits",
    ),
    (
        "inference without a loss",
        case(model={"padded_vocab_size": 256}, training=replace(MASKED, inference="static")),
        "is about the loss, and inference has none; leave it out",
    ),
    (
        "too few rows",
        case(model={"padded_vocab_size": 127}),
        r"padded_vocab_size 127 is less than vocab_size 128; give 128 or more, or \+vocab1",
    ),
    ("less than no MTP", case(model={"num_nextn_predict_layers": -1}), "is -1; it must be a whole number of at least 0"),
    ("a setting of the shape", case(training=Training(settings=(("model.num_layers", 3),))), "is of the model's shape"),
    ("nothing to overlap", case("dp2", training=EXPERTS_OVERLAP), "and dp2 has none; ep2 has them"),
    ("stages of parts", case("pp2ep2", training=EXPERTS_OVERLAP), "pp2ep2 works with vpp2, or leave it out"),
    ("overlap without vpp", case("pp2", training=Training(settings=(("model.overlap_p2p_comm", True),))), "vpp2 has them"),
    ("user buffers of a shared GPU", BUFFERS, "over staged ranks share one; --transport nccl has it"),
    ("user buffers without tp", replace(BUFFERS, layout=Layout.parse("dp2")), "dp2 has none; take tp2, or leave it out"),
    (
        "another exchange of keys",
        case("cp2", training=Training(settings=(("model.cp_comm_type", "all_gather"),)), **TE_IN_BF16),
        r"with Transformer Engine 2.11.0: before 2.15 .* no all_gather .*; cp_comm_type=p2p works",
    ),
    (
        "an exchange in the inner level alone",
        case("cp2", training=Training(settings=LEVELS), **TE_IN_BF16),
        r"cp_comm_type=a2a cannot run with Transformer Engine 2.11.0",
    ),
    (
        "one level of cp",
        case("cp4", training=Training(settings=(("model.cp_comm_type", "a2a+p2p"),)), **TE_IN_BF16),
        r"two sizes whose product is cp4; hierarchical_context_parallel_sizes=\[2,2\] works",
    ),
    (
        "fp32 sums in fp64",
        case(training=Training(settings=(("ddp.reduce_scatter_with_fp32_accumulation", True),))),
        "--precision bf16 works",
    ),
    (
        "a pipeline layout",
        case("pp2", training=Training(settings=(("model.pipeline_model_parallel_layout", "Ett|L"),))),
        "has 2 layers and the model has 4; write as many t",
    ),
    (
        "an embedding of MTP layers that nobody sums",
        case("pp2vpp2", model=MTP, training=Training(settings=(("model.pipeline_model_parallel_layout", "Ett|t|tm|L"),))),
        "virtual stage 1 of pipeline rank 0. Megatron-Core does not sum the gradient",
    ),
    ("inference in fp16", case(precision="fp16", training=STATIC), r"\+static is compared in fp64, fp32 and bf16, .* in fp16"),
    ("inference over cp", case("cp2", training=STATIC), r"no context parallelism; leave cp2 or \+static out"),
    ("inference in virtual stages", case("pp2vpp2", training=STATIC), r"no virtual stages; leave vpp2 or \+static out"),
    (
        "inference with MTP",
        case(model=MTP, training=STATIC),
        r"uses MTP layers for drafts alone, which are not compared; leave \+mtp or \+static out",
    ),
    ("inference and steps", case(training=replace(STATIC, steps=1)), r"\+static takes no optimizer steps; leave --steps out"),
    ("inference by modules", case(isolated=True, training=STATIC), "--isolated would replace it; leave one of them out"),
    ("inference and a mean", case(training=replace(STATIC, loss="mean")), r"\+mean is of training; leave one of them out"),
    (
        "inference and a buffer",
        case(training=replace(STATIC, settings=(("ddp.bucket_size", 1000),))),
        r"\+static trains nothing, and ddp.bucket_size is of training",
    ),
    (
        "an idle stage",
        case("ep2pp2", batch_size=1, training=STATIC),
        "an idle rank has no pipeline stages; --batch-size 2 works",
    ),
    ("too much room for experts", case(training=PADDED), "moe_expert_capacity_factor=4 works, and 8 does not"),
    (
        "more places of an expert than tokens",
        case(training=replace(PADDED, inference="none")),
        "gives an expert more places than there are tokens, .*; 4 works",
    ),
    ("uneven expert ranks", case("ep2", batch_size=4, training=DYNAMIC), "dummy_forward fails .*; --batch-size 8 works"),
    (
        "shared experts' parts",
        case("etp2", training=DYNAMIC),
        r"for ever; leave etp2 out, or \+static works",
    ),
    ("requests of stock layers", case(implementation="local-stock", training=DYNAMIC), "--implementation local works"),
    ("inference of 3 tokens", case(seq_length=3, training=STATIC), "give --seq-length 4 or more"),
    ("no clipping", case(training=Training(steps=1, settings=(("optimizer.clip_grad", 0.0),))), "computes no norm"),
    (
        "a schedule",
        case(training=Training(steps=1, settings=(("optimizer.min_lr", 1.0),))),
        "optimizer.min_lr is 1 and optimizer.lr",
    ),
    (
        "an indexer without heads",
        case(model={"index_topk": 8, "index_head_dim": 32}),
        "index_topk is of .*needs index_n_heads, too",
    ),
    ("an indexer without a latent", case(model={**SPARSE, "q_lora_rank": None}), "reads the query latent"),
    ("an indexer of few elements", case(model={**SPARSE, "index_head_dim": 16}), "index_head_dim 32 works"),
    ("sparse attention with cp", case("cp2", SPARSE), "cp2 cannot be compared with sparse attention .*; cp1 works"),
    (
        "sparse attention without sp",
        case("tp2nosp", {**SPARSE, "first_k_dense_replace": 4}),
        "asserts sequence parallelism with it; tp2 works",
    ),
    ("sparse attention with MTP", case(model={**SPARSE, "num_nextn_predict_layers": 1}), r"\+mtp cannot be compared"),
    ("sparse documents", case(model=SPARSE, training=Training(data_shape="documents")), r"\+documents cannot be compared"),
    ("sparse inference", case(model=SPARSE, training=STATIC), r"\+static cannot be compared"),
    ("sparse layers in a stream", case(model=SPARSE, training=Training(stream=True)), "--stream cannot be compared"),
    ("sparse stock layers", case(model=SPARSE, implementation="local-stock"), "--implementation local works"),
    # ranks and data
    ("dp", case("ep4dp2"), r"2 ranks in a pipeline stage, not a multiple of the 4 .*\(etp1 \* ep4\); dp4 works"),
    ("dp with tp", case("tp2ep4dp1"), "dp2 works"),
    ("etp", case("tp2etp4dp1"), "dp2 works"),
    ("batch", case("dp3"), r"batch_size 8 is not a multiple of dp3 \* micro_batch_size 2; --batch-size 6 or 12 works"),
]


@pytest.fixture(autouse=True)
def _with_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that was run, whatever is installed."""
    monkeypatch.setattr(preflight, "version", lambda package: "2.11.0")


@pytest.mark.parametrize(("release", "runs"), [("2.14.1", False), ("2.15.0", True), ("absent", True)])
def test_keys_and_values_are_exchanged_in_each_way_from_2_15_on(
    release: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "version", lambda package: release)
    kinds = ("a2a", "all_gather", "p2p")
    found = [refusal(case("cp2", training=Training(settings=(("model.cp_comm_type", kind),)), **TE_IN_BF16)) for kind in kinds]
    assert [said is None for said in found] == [runs, runs, True]


@pytest.mark.parametrize(("of", "said"), [row[1:] for row in IMPOSSIBLE], ids=[row[0] for row in IMPOSSIBLE])
def test_an_impossible_case_is_refused_with_what_would_work(of: Case, said: str) -> None:
    """As wrong usage, in one line, before anything starts."""
    with pytest.raises(UsageError, match=said) as raised:
        preflight.check(of, max_ranks=64, gpus=64, memory=None)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("implementation", ["te", "te-fused", "te-flash"])
def test_transformer_engine_splits_sequences_in_bf16(implementation: str) -> None:
    assert refusal(case("cp2", **{**TE_IN_BF16, "implementation": implementation})) is None


def test_every_rule_refuses_something_here() -> None:
    """A rule without a case above could be wrong, or never reached."""
    silent = [rule for rule in preflight.RULES if not any(_first_refusing(of) is rule for _, of, _ in IMPOSSIBLE)]
    assert silent == []


def _first_refusing(of: Case) -> preflight.Rule | None:
    return next((rule for rule in preflight.RULES if rule(of)), None)


@pytest.mark.parametrize(
    "model",
    [{"rope_type": "default", "rope_factor": 1.0}, {"original_max_position_embeddings": 6144}],
    ids=["none", "multiple"],
)
def test_context_parallelism_of_three_works_where_its_table_can_be_cut(model: dict[str, Any]) -> None:
    """Without yarn there is no such table."""
    assert refusal(case("cp3", model)) is None


def test_a_suggested_degree_is_one_that_works() -> None:
    """tp8 suits the vocabulary but not the heads, and so it is not suggested."""
    error = refusal(case("tp8"))
    assert str(error).endswith("tp2 and tp4 do")
    assert refusal(case("tp4")) is None


@pytest.mark.parametrize(
    "model", [{"n_group": 1, "topk_group": 1, "num_experts_per_tok": 3}, {"topk_group": 4, "num_experts_per_tok": 8}]
)
def test_group_scores_agree_in_one_group_or_at_two_experts_for_each(model: dict[str, int]) -> None:
    """The two ways in which both sides choose alike."""
    assert refusal(case(model=model)) is None


def test_a_model_without_experts_is_not_held_to_the_router_s_rules() -> None:
    """A dense layer of a checkpoint can be compared alone, even without sequence parallelism."""
    dense = {"first_k_dense_replace": 4, "num_experts_per_tok": 1}
    assert refusal(case("tp2nosp", dense)) is None
    assert refusal(case("tp2nosp", MOE_ONLY)) is not None


def test_epsilons_that_differ_are_no_obstacle() -> None:
    """HuggingFace's latent norms stay at 1e-6; the candidate sets its own accordingly."""
    assert refusal(case(model={"rms_norm_eps": 1e-5})) is None


def test_too_many_ranks_for_a_cpu_name_the_option() -> None:
    """The limit guards a laptop, and can be raised."""
    error = refusal(case("tp2pp2"), max_ranks=2)
    assert isinstance(error, UsageError)
    assert "needs 4 ranks and --max-ranks is 2; raise --max-ranks to 4 or choose a smaller layout" in str(error)
    assert refusal(case("tp2"), max_ranks=2) is None


@pytest.mark.parametrize(
    ("gpus", "found"), [(None, "no GPU was found"), (0, "no GPU was found"), (1, "1 was found"), (3, "3 were found")]
)
def test_too_few_gpus_name_the_same_layout_on_the_cpu(gpus: int | None, found: str) -> None:
    """That is the environment's fault, not the user's."""
    error = refusal(case("tp2pp2", transport="nccl"), gpus=gpus)
    assert isinstance(error, EnvironmentMissing)
    assert f"needs 4 GPUs and {found}" in str(error)
    assert "`--transport gloo` (`nox -s cpu_tp2pp2`)" in str(error)
    assert refusal(case("tp2pp2", transport="nccl"), gpus=4) is None


def test_transformer_engine_without_gpus_is_led_to_what_runs_on_a_cpu() -> None:
    """`--transport gloo` alone would be refused next."""
    error = refusal(case(implementation="te", precision="fp32", transport="nccl"), gpus=0)
    assert "`--transport gloo --implementation local`" in str(error)


def test_too_little_memory_gives_the_numbers() -> None:
    """In GiB, and what would make it smaller."""
    needed = memory.estimate(case(preset=MINI)).host
    error = refusal(case(preset=MINI), available=needed - 1)
    assert isinstance(error, EnvironmentMissing)
    assert f"needs about {needed / GIB:.1f} GiB" in str(error)
    assert "--seq-length" in str(error)
    assert refusal(case(preset=MINI), available=needed) is None


def test_tiny_fits_a_small_runner_under_eight_ranks() -> None:
    """A false alarm would be worse than none."""
    assert memory.estimate(case("tp2pp2cp2")).host < 4 * GIB


def test_a_folder_need_not_give_yarn_s_mscale() -> None:
    """Transformers then makes its own of the factor; the number's rule is for one that is given."""
    model = replace(case("single").model, mscale=None)
    assert refusal(replace(case("single"), model=model)) is None
    assert "mscale is 0.0; it must be a number greater than 0" in str(
        refusal(replace(case("single"), model=replace(model, mscale=0.0)))
    )

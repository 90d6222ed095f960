"""How much memory a case takes, estimated from the model's shapes before anything starts.

Elements, times the bytes of one (fp64 8, fp32 4, bf16 and fp16 2; the reference is always computed in fp64, too):

    reference = P + 2 * W + A(whole batch) + R + 2 * L, and below fp64 2 * R + W more
    rank      = P + 2 * W(rank) + A(micro-batches under way) + 2 * R(rank) + 4 * L(rank)

W weights, counted twice for their gradients; A what forward passes keep for the backward pass; R the recorded probes, on a
rank both of the forward and of the backward pass; L the largest weight, of which gradient, sums and slices are in hand at once;
P the process with its libraries. Optimizer steps add both moments, 2 * W, on each side, and to the reference what each step
leaves, 3 * W. On a GPU nothing recorded stays, and gradients of bf16 and fp16 are added up in fp32. A counts the widths of what
a layer computes.

The reference of mini in fp64 was measured at 6.0, 8.4 and 9.5 GiB (2, 4 and 2 sequences of 512, 512 and 1024
tokens, no steps) where the formula says 6.5, 9.7 and 10.4. Small cases in MiB (fp64 on the CPU, 2026-11-27; the last column is
all that is there at once, resident, with pages that processes share counted for each of them, and in brackets once; 262144 is
intermediate_size):

    case, steps                            reference        a rank           host
                                           formula found    formula found    formula found
    tiny, 262144 wide, single, 0           1479    1235     2248    1619     3016    2728 (2131)
    the same, 2                            4575    3913     3022    2419     5215    4615 (4309)
    the same, 2 sequences, tp2, 0          1609    1260     1284    1061     3145    3023 (2379)
    the same, tp2, 2                       4705    3847     1672    1595     5345    4425 (4242)
    mini, 2 layers, 128 tokens, single, 2  4928    4473     2723    2224     5568    5001 (4820)
    the same, tp2, 2                       4928    4473     1544    1337
    the same, ep2, 0                       1655    1651     1374    1370     3324    3504 (2826)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from validation.case.case import Case
from validation.case.depth import ALL, BACKWARD
from validation.case.inference import infers
from validation.case.model import Model
from validation.case.optimizers import Rule
from validation.case.parameters import EXPERTS, Parameter, parameters
from validation.case.probes import Probe, probes
from validation.case.share import share
from validation.case.stages import EMBEDDING, of_stage
from validation.case.steps import takes_gradients

BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
GIB = 2**30
PROCESS = {"gloo": 320 * 2**20, "nccl": 2 * GIB, "staged": 2 * GIB, "staged-cpu": 320 * 2**20}
"""Host memory of a process before it holds any tensor, in bytes; a CUDA context costs most of the second."""
CONTEXT = GIB
"""GPU memory of a process before it holds any tensor: context, libraries, workspaces. 719 MiB measured (benchmarks)."""
KEPT_ON_CARD = 8 * GIB
"""Bytes of a truth up to which it stays on the GPU: copying it takes longer than what it is compared with."""
FORKED = 128 * 2**20
"""Of PROCESS on the CPU what a rank has for itself: the rest it shares with the fork server."""
BESIDE = 3
"""Processes beside the ranks: the command's own, the fork server, and the reference process, which stays."""


@dataclass(frozen=True)
class Estimate:
    """Bytes for the largest rank, for the reference process, on the host for all that runs at once, and on the fullest GPU.

    The reference runs before the ranks start, on the first GPU where ranks run on GPUs, and keeps its context. On the CPU
    all ranks share the host's memory, and the processes beside them; else theirs is the GPU's, which `card` counts (0 on the
    CPU).
    """

    rank: int
    reference: int
    host: int
    card: int


def estimate(case: Case, gpus: int = 1) -> Estimate:
    """What `case` takes where there are so many GPUs. The case must be possible (validation.case.preflight)."""
    size = BYTES[case.precision]
    process, ranks = PROCESS[case.transport], case.layout.ranks
    if case.training.stream:
        return _streamed(case, size, process, gpus)
    reference = _reference(case)
    if case.on_cpu:
        own = size * _rank_elements(case)
        host = max((BESIDE - 1) * process + reference, BESIDE * process + ranks * (FORKED + own))
        return Estimate(process + own, reference, host, 0)
    sharing = 1 if case.transport == "nccl" else -(-ranks // gpus)
    card = max(_reference_on_card(case), CONTEXT + sharing * _rank_on_card(case))
    return Estimate(_rank_on_card(case), reference, max(reference, ranks * process), card)


def _streamed(case: Case, size: int, process: int, gpus: int) -> Estimate:
    """Layer by layer: the largest layer of each side, on the device where there is one.

    The truth has no gradients of experts, the runs beside it in the precision have; of the probes one layer's are there.
    """
    if case.in_lockstep:
        return _lockstep(case, size, process)
    layers = [*case.model.blocks, None]
    of_layer = [[one for one in parameters(case.model).values() if one.layer == layer] for layer in layers]
    weights = max(sum(math.prod(one.shape) for one in found) for found in of_layer)
    held = max(sum(share(one, case.layout, case.implementation) for one in found) for found in of_layer)
    widest = max(_layer_width(case.model, layer) for layer in case.model.blocks)
    scores = case.model.num_attention_heads * case.seq_length
    activations = case.batch_size * case.seq_length * max(widest + scores, 4 * case.model.vocabulary_rows)
    records = max(sum(math.prod(probe.shape) for probe in _probes(case) if probe.layer == layer) for layer in layers)
    truth = BYTES["fp64"] if case.precision in ("fp64", "fp32") else BYTES["fp32"]
    reference = max(truth * (weights + activations), size * (2 * weights + activations)) + truth * 2 * records
    main = BYTES["fp64"] if case.precision == "fp64" else BYTES["fp32"]
    ours = activations // (case.layout.data_parallel * _token_cut(case))
    rank, ranks = (size + main) * held + size * (ours + records), case.layout.ranks
    if case.on_cpu:
        return Estimate(process + rank, process + reference, process + max(reference, ranks * (process + rank)), 0)
    sharing = 1 if case.transport == "nccl" else -(-ranks // gpus)
    card = CONTEXT + max(reference, sharing * (CONTEXT + rank))
    return Estimate(CONTEXT + rank, CONTEXT + reference, (ranks + 1) * process, card)


def _lockstep(case: Case, size: int, process: int) -> Estimate:
    """One layer of each side, one after the other in the one rank: first the reference's runs, then the candidate.

    Experts are held once for all runs, and one run at a time has gradients of them; the truth's tensors stay for the candidate.
    On a GPU those of gradients wait on the host in the last stage, and an MTP layer's part of the embedding's has gone to a
    file. Transformer Engine makes the gradients of all experts' first product at once.
    """
    model, known = case.model, parameters(case.model)
    truth = BYTES["fp64"] if case.precision in ("fp64", "fp32") else BYTES["fp32"]
    main = BYTES["fp64"] if case.precision == "fp64" else BYTES["fp32"]
    most, left = 0, 0
    for stage in model.blocks:
        ends = stage == model.blocks[-1]
        names = [name for name in of_stage(model, stage) if name in known]  # a tied head is the embedding
        experts = sum(math.prod(known[name].shape) for name in names if EXPERTS in name)
        at_once = sum(math.prod(known[name].shape) for name in names if _is_first_product(name)) if case.uses_te else 0
        others = sum(math.prod(known[name].shape) for name in names) - experts
        layers = (stage, None) if ends else (stage,)
        records = sum(math.prod(probe.shape) for probe in _probes(case) if probe.layer in layers)
        tokens = case.batch_size * case.seq_length
        width = _layer_width(model, stage) + model.num_attention_heads * case.seq_length
        activations = tokens * (width + (4 * model.vocabulary_rows if ends else 0))
        gradients = truth * others
        embedding = math.prod(known[EMBEDDING].shape) if EMBEDDING in names else 0
        left = truth * (others - embedding) if ends and not case.on_cpu else 0
        reference = 2 * size * experts + (truth + 2 * size) * others + truth * activations
        candidate = (size + main) * (experts + others) + size * at_once
        candidate += main * activations * case.micro_batch_size // case.batch_size
        most = max(most, truth * 2 * records + gradients + max(reference, candidate - left))
    if case.on_cpu:
        return Estimate(process + most, process, (BESIDE + 1) * process + most, 0)
    return Estimate(CONTEXT + most, CONTEXT, 2 * process + left, 2 * CONTEXT + most)


def _is_first_product(name: str) -> bool:
    """Whether it is an expert's gate or up projection, which are one product in megatron-core."""
    return EXPERTS in name and not name.endswith("down_proj.weight")


def _reference(case: Case) -> int:
    weights, records = _weights(case), _records(case)
    # Below fp64 the truth is computed first, in fp64, and what it left stays while the model runs in the precision.
    kept = 0 if case.precision == "fp64" else BYTES["fp64"] * (2 * records + weights)
    states = 4 if case.training.steps else 2
    largest = max(math.prod(one.shape) * (1 + _is_gate_of(one, EXPERTS)) for one in parameters(case.model).values())
    computed = states * weights + 2 * largest + _activations(case.model, case.batch_size, case.seq_length)
    # Where a GPU computes it the host has what comes of it, which is a gradient of each weight and the records.
    elements = records + (computed if case.on_cpu else weights) + 3 * case.training.steps * weights
    return PROCESS[case.transport] + BYTES["fp64"] * elements + kept


def _reference_on_card(case: Case) -> int:
    """In fp64, whatever the precision: weights, gradients, both moments where steps are taken, activations."""
    states = 4 if case.training.steps else 2
    computed = BYTES["fp64"] * (states * _weights(case) + _activations(case.model, case.batch_size, case.seq_length))
    return CONTEXT + computed + truth_on_card(case)


def truth_on_card(case: Case) -> int:
    """Bytes of a truth that always stays on the GPU while floors are measured from it; 0 for one that is large or has steps."""
    size = 0 if _steps(case) else _truth(case)
    return size if size <= KEPT_ON_CARD else 0


def stays_on_card(case: Case, free: int) -> bool:
    """Whether a case's truth stays on a GPU that has so many bytes free: one that is small, or for which there is room.

    There is room if the truth and a run that is compared with it take half of what the estimate leaves. The other half is for
    the ranks of other cases.
    """
    if truth_on_card(case):
        return True
    size = _truth(case)
    return size > 0 and 2 * (size + _run(case)) <= free - estimate(case).card


def _truth(case: Case) -> int:
    """Bytes of a truth from which floors are measured, with what each optimizer step leaves; 0 if it belongs on the host."""
    if case.precision == "fp64" or case.on_cpu or case.isolated or case.training.stream or infers(case):
        return 0
    left = 1 + (_kinds(case) + 1) * _steps(case)
    return BYTES["fp64"] * (2 * _records(case) + left * _weights(case))


def _run(case: Case) -> int:
    """The same of a run in the precision: what the optimizer keeps is float32 there."""
    size, wide = BYTES[case.precision], max(BYTES[case.precision], BYTES["fp32"])
    left = size + (wide * _kinds(case) + size) * _steps(case)
    return 2 * size * _records(case) + left * _weights(case)


def _steps(case: Case) -> int:
    """The optimizer steps that a case takes."""
    return 0 if case.upto else case.training.steps


def _kinds(case: Case) -> int:
    """What an optimizer keeps of each weight: its moments, and a master where there is one."""
    return len(Rule.of(case.training).moments) + case.has_masters


def _records(case: Case) -> int:
    """Elements of all probes of one pass, forward or backward."""
    return sum(math.prod(probe.shape) for probe in _probes(case))


def _weights(case: Case) -> int:
    """Elements of all weights."""
    return sum(math.prod(parameter.shape) for parameter in parameters(case.model).values())


def _rank_on_card(case: Case) -> int:
    """Weights and activations in the precision, gradients (and moments) in fp32 or better. Probes are not kept."""
    wide = max(BYTES[case.precision], BYTES["fp32"])
    steps = case.training.steps
    weights, states = _largest_stage(case), 1 + 2 * (steps > 0) + takes_gradients(case, steps)
    # Under fp8 Transformer Engine keeps each weight as a byte, and once more transposed.
    quantised = 2 * weights if case.training.fp8 != "none" else 0
    return CONTEXT + BYTES[case.precision] * (weights + _rank_activations(case)) + wide * states * weights + quantised


def _rank_elements(case: Case) -> int:
    """What a rank on the CPU holds."""
    states = 4 if case.training.steps else 2
    largest = max(
        share(one, case.layout, case.implementation) * (1 + _is_gate_of(one)) for one in parameters(case.model).values()
    )
    return states * _largest_stage(case) + 4 * largest + _rank_activations(case) + _rank_records(case)


def reduced(case: Case) -> int:
    """Bytes of the largest tensor of gradients that data-parallel ranks add up; 0 where none is added up whole.

    megatron-core has one of all weights, or, where experts are spread, one of the experts and one of all others, in fp32 at
    least unless `ddp.grad_reduce_in_fp32` says otherwise.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/distributed/distributed_data_parallel.py
    """
    layout, training = case.layout, case.training
    if case.upto not in (BACKWARD, ALL) or training.stream or infers(case) or training.optimizer == "distributed":
        return 0
    others = layout.data_parallel * layout.cp > 1
    if layout.ep == 1:
        found = _largest_stage(case) if others else 0
    else:
        experts = layout.ranks > layout.pp * layout.ep * layout.expert_tp
        found = max(_largest_stage(case, of=of) if spread else 0 for of, spread in ((True, experts), (False, others)))
    return max(BYTES[case.precision], BYTES["fp32"]) * found


def _is_gate_of(parameter: Parameter, of: str = "") -> bool:
    """Whether it is held in one tensor with the up projection: HuggingFace does so for experts, megatron-core everywhere."""
    return "gate_proj" in parameter.name and of in parameter.name


def _probes(case: Case) -> list[Probe]:
    return list(probes(case.model, case.batch_size, case.seq_length).values())


def _largest_stage(case: Case, of: bool | None = None) -> int:
    """Elements of the weights of the pipeline stage that holds most of them, on one of its ranks.

    Of all, or of those of experts alone (`of` is true), or without them.
    """
    last = case.layout.pp - 1
    stages = [0] * case.layout.pp
    for parameter in parameters(case.model).values():
        if of is not None and (EXPERTS in parameter.name) != of:
            continue
        stages[_stage(case, parameter)] += share(parameter, case.layout, case.implementation)
        copied = case.model.tie_word_embeddings or case.model.mtp_layers
        if copied and "embed_tokens" in parameter.name and last > 0:
            stages[last] += share(parameter, case.layout, case.implementation)
    return max(stages)


def _stage(case: Case, parameter: Parameter) -> int:
    """The pipeline stage of a parameter; with virtual stages the layers go round them in turn."""
    layout = case.layout
    if parameter.layer is None:
        return 0 if "embed_tokens" in parameter.name else layout.pp - 1
    if parameter.mtp is not None:
        return layout.pp - 1
    layers = max(1, case.model.num_hidden_layers // (layout.pp * layout.vpp))
    return parameter.layer // layers % layout.pp


def _layer_width(model: Model, layer: int) -> int:
    """Elements that one token leaves for the backward pass in one layer, attention scores aside."""
    heads = model.num_attention_heads * (2 * model.query_head_dim + 2 * model.v_head_dim)
    hidden = 8 * model.hidden_size + heads
    if layer in model.dense_layers:
        return hidden + 4 * model.intermediate_size
    inner = 4 * model.moe_intermediate_size
    return hidden + model.num_experts_per_tok * (3 * model.hidden_size + inner) + model.n_shared_experts * inner


def _activations(model: Model, sequences: int, seq_length: int) -> int:
    """Elements that a forward pass over whole sequences keeps: each layer's widths, its scores, the logits."""
    heads = 1 + model.num_nextn_predict_layers
    widths = sum(_layer_width(model, layer) for layer in model.blocks) + 4 * heads * model.vocabulary_rows
    scores = len(model.blocks) * model.num_attention_heads * seq_length
    return sequences * seq_length * (widths + scores)


def _token_cut(case: Case) -> int:
    """Into how many parts one sequence's activations fall over the ranks of a stage."""
    layout = case.layout
    return layout.cp * (layout.tp if layout.uses_sequence_parallel else 1)


def _rank_activations(case: Case) -> int:
    """Elements of the micro-batches that are under way at once: as many as stages, twice that with virtual stages."""
    layout = case.layout
    under_way = min(case.micro_batches, layout.pp * (2 if layout.vpp > 1 else 1))
    whole = _activations(case.model, case.micro_batch_size, case.seq_length)
    return under_way * whole // (layout.pp * _token_cut(case))


def _rank_records(case: Case) -> int:
    """Elements of the recorded probes, forward and gradient, on the stage that also holds the logits."""
    layers = sum(math.prod(probe.shape) for probe in _probes(case) if probe.layer is not None)
    ends = sum(math.prod(probe.shape) for probe in _probes(case) if probe.layer is None)
    return 2 * (layers // case.layout.pp + ends) // (case.layout.data_parallel * _token_cut(case))


def shortage(case: Case, memory: int) -> str | None:
    """The sentence to say when `memory` bytes on the host are not enough for the case, else None."""
    needed = estimate(case)
    if needed.host <= memory:
        return None
    # Below fp64 the reference holds both models' gradients, so that a lower precision may take more.
    less = case.precision in ("fp64", "fp32") and estimate(replace(case, precision="bf16")).host < needed.host
    lower = ", --precision bf16" if less else ""
    steps = ", --steps 0" if case.training.steps else ""
    streamed = "" if case.training.stream or case.layout.pp > 1 else ", --stream (one layer at a time)"
    return (
        f"{case.title} needs about {needed.host / GIB:.1f} GiB of memory ({needed.reference / GIB:.1f} GiB for the reference, "
        f"{needed.rank / GIB:.1f} GiB for a rank) and {memory / GIB:.1f} GiB are available; a smaller --seq-length, "
        f"fewer layers (--layers or --set num_hidden_layers){steps}{lower}{streamed} or a machine with more memory would do"
    )

"""What a training step keeps, measured, beside what `plan` estimates.

    python benchmarks/activations.py [--out FOLDER] [--only mini/te,v3-layers/te] [--seq-length 4096]
    python benchmarks/activations.py --on-cpu

One rank, bf16, one sequence in a micro-batch. Weights and their gradients are there before and are not counted. Measured are
what a dense layer and a layer of experts keep for the backward pass, what the whole model keeps, and the most that a step
takes at once. On a CPU these are the bytes of tensors (benchmarks/live.py), and only of the whole model. The folder gets
activations.json and activations.md. Ends with 3 where there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from validation.case.case import Case
from validation.machine import gpus, machine
from validation.plan import layouts, weights
from validation.plan.estimate import Parts, Step, of_layer, of_stages
from validation.plan.policy import Policy, recompute
from validation.recipe.pipeline import chunks
from validation.run import launch
from validation.run.options import parsed

MIB = 2**20
FUSED = "+bias_activation_fusion"
"""As one trains. Plumbline leaves fusions out unless a setting has them in: then both factors of SwiGLU are kept once more."""
WAYS = (FUSED, f"{FUSED}+selective+recompute_modules=[mla_up_proj,moe_act,layernorm]", f"{FUSED}+full")
CASES = (
    *(("v3-layers", "te", word, 4096) for word in WAYS),
    *(("mini", "te", word, 4096) for word in (*WAYS, f"{FUSED}+mtp", "")),
)
ON_CPU = tuple(("mini", "local", word, 512) for word in ("", "+selective", "+full", "+full+mtp"))
"""The layers of `local` keep their attention weights, which grow with the square of the length."""
FEWER = ("--set", "n_routed_experts=16", "--set", "n_group=8")
"""Of v3-layers: what is kept for a token does not depend on how many experts there are, and so few fit beside other work."""


@dataclass(frozen=True)
class Found:
    """MiB of one case: measured, and estimated. `step` is the most at once, beside weights and gradients."""

    case: str
    dense: float
    dense_estimate: float
    experts: float
    experts_estimate: float
    kept: float
    kept_estimate: float
    step: float
    step_estimate: float
    tensors: tuple[str, ...] = ()


def the_case(preset: str, implementation: str, word: str, length: int, transport: str = "nccl") -> Case:
    """One rank."""
    words = ("--preset", preset, "--layouts", f"single{word}", "--implementation", implementation, "--precision", "bf16")
    data = ("--transport", transport, "--seq-length", str(length), "--batch-size", "1", "--micro-batch-size", "1")
    found = parsed((*words, *data, *(FEWER if preset == "v3-layers" else ()))).cases[0]
    return replace(found, training=replace(found.training, stream=False))


def estimated(case: Case) -> tuple[float, float, Parts]:
    """Bytes that a dense layer keeps, and one of experts, and all parts of the model."""
    implementation = "local" if case.implementation == "local" else "te"
    settings = {f"model.{name}": value for name, value in case.training.effective("model").items()}
    unfused = not settings["model.bias_activation_fusion"]
    step = Step(case.seq_length, 1, 1, implementation=implementation, unfused=unfused)
    way = recompute(settings)
    divided = layouts.split(case.model, case.layout)
    assert divided is not None
    (parts,) = of_stages(case.model, case.layout, chunks(case.model, case.layout, divided), Policy(recompute=(way,)), way, step)
    gone = set(way.modules)
    dense, experts = (
        sum(item.size for item in of_layer(case.model, case.layout, kind, step) if not set(item.modules) & gone)
        for kind in (weights.DENSE, weights.EXPERT)
    )
    if way.granularity == "full":
        dense = experts = 2 * case.seq_length * case.model.hidden_size
    return dense, experts, parts


@contextmanager
def one_rank(case: Case) -> Iterator[Any]:
    """The model of the case's only rank, with weights of some size and gradients that are there."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    from validation.candidate import build, platform
    from validation.compare.precision import computing_in

    dist.init_process_group(case.transport, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        with computing_in(case.precision, platform.mode(on_cpu=case.on_cpu, precision=case.precision)):
            build.start_groups(case)
            (chunk,) = build.build(case)
            for one in chunk.parameters():
                with torch.no_grad():
                    one.normal_(std=0.02)
                one.grad = torch.zeros_like(one)
            chunk.train()
            yield chunk
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@dataclass
class Kept:
    """Bytes that each layer of a kind keeps, and the tensors, by shape, of the first one of each."""

    sizes: dict[str, list[int]]
    tensors: dict[str, list[tuple[int, str]]]

    def watch(self, chunk: Any, dense: Sequence[int]) -> None:
        """Count what each layer keeps from here on, unless its forward pass keeps no graph."""
        import torch

        before: list[int] = []
        alive: list[Any] = []
        known = {one.untyped_storage().data_ptr() for one in chunk.parameters()}

        def kind_of(layer: Any) -> str:
            return weights.DENSE if layer.layer_number - 1 in dense else weights.EXPERT

        def entering(layer: Any, *given: Any) -> None:
            before.append(torch.cuda.memory_allocated())
            found: list[tuple[int, str]] = []

            def pack(tensor: Any) -> Any:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in known:
                    known.add(storage.data_ptr())
                    alive.append(storage)
                    found.append((storage.nbytes(), f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"))
                return tensor

            if torch.is_grad_enabled() and not self.tensors[kind_of(layer)]:
                self.tensors[kind_of(layer)] = found
                layer.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
                layer.hooks.__enter__()

        def leaving(layer: Any, *given: Any) -> None:
            hooks = vars(layer).pop("hooks", None)
            if hooks is not None:
                hooks.__exit__()
            spent = torch.cuda.memory_allocated() - before.pop()
            if torch.is_grad_enabled() and chunk.training_forward:
                self.sizes[kind_of(layer)].append(spent)

        for layer in chunk.decoder.layers:
            layer.register_forward_pre_hook(entering)
            layer.register_forward_hook(leaving)


def forward_pass(case: Case, chunk: Any, device: Any) -> Any:
    """The chunk's forward pass over random tokens, which returns their losses."""
    import torch

    from validation.candidate.step import causal_mask

    tokens = torch.randint(0, case.model.vocab_size, (1, case.seq_length), device=device)
    positions = torch.arange(case.seq_length, device=device)[None]
    mask, counted = causal_mask(case, device), torch.ones_like(tokens, dtype=torch.float32)
    return lambda: chunk(tokens, positions, mask, labels=tokens, loss_mask=counted)


def measured_on_cpu(case: Case) -> tuple[Kept, int, int]:
    """The same of the whole model alone, in bytes of tensors."""
    import torch

    from benchmarks.live import Live

    with one_rank(case) as chunk:
        forward = forward_pass(case, chunk, torch.device("cpu"))
        given = [tensor for one in chunk.parameters() for tensor in (one, one.grad)]
        with Live([*given, *chunk.buffers()]) as live:
            losses = forward()
            whole = live.now
            losses.sum().backward()
        return Kept({weights.DENSE: [], weights.EXPERT: []}, {}), whole, live.most


def measured(case: Case) -> tuple[Kept, int, int]:
    """What its layers keep, bytes that all of the model keeps, and the most at once."""
    import torch

    kept = Kept({weights.DENSE: [], weights.EXPERT: []}, {weights.DENSE: [], weights.EXPERT: []})
    with one_rank(case) as chunk:
        forward = forward_pass(case, chunk, torch.device("cuda", 0))

        def step() -> tuple[int, int]:
            # Dispatchers hold the graph of the layer that was last computed again. It is no part of what follows.
            with torch.no_grad():
                forward()
            gc.collect()
            start = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            chunk.training_forward = True
            losses = forward()
            chunk.training_forward = False
            whole = torch.cuda.memory_allocated() - start
            losses.sum().backward()
            return whole, torch.cuda.max_memory_allocated() - start

        step()  # kernels make their workspaces
        found = step()
        kept.watch(chunk, case.model.dense_layers)
        step()
    gc.collect()
    torch.cuda.empty_cache()
    return kept, *found


def beside(preset: str, implementation: str, word: str, length: int, transport: str) -> Found:
    """One case, measured and estimated."""
    case = the_case(preset, implementation, word, length, transport)
    dense, experts, parts = estimated(case)
    kept, whole, most = measured_on_cpu(case) if case.on_cpu else measured(case)

    in_bf16 = 2 * case.seq_length * case.model.vocab_size  # gone behind the forward pass

    def largest(kind: str) -> float:
        return max(kept.sizes[kind], default=0) / MIB

    def named(kind: str) -> list[str]:
        return [
            f"{kind}: {size / MIB:.1f} MiB {shape}" for size, shape in sorted(kept.tensors.get(kind, []), reverse=True)[:24]
        ]

    return Found(
        f"{preset} {implementation} single{word}, {length} tokens",
        largest(weights.DENSE),
        dense / MIB if kept.sizes[weights.DENSE] else 0.0,
        largest(weights.EXPERT),
        experts / MIB if kept.sizes[weights.EXPERT] else 0.0,
        whole / MIB,
        (parts.activations + parts.logits - in_bf16) / MIB,
        most / MIB,
        (parts.activations + parts.recomputed + parts.logits + parts.dispatch) / MIB,
        (*named(weights.DENSE), *named(weights.EXPERT)) if word in ("", FUSED) else (),
    )


def table(rows: Sequence[Found], failed: Sequence[str]) -> str:
    """In Markdown: MiB measured, MiB estimated, and the one over the other."""
    lines = [f"{name}: {value}" for name, value in machine().items() if name != "platform"]
    heads = ("case", "a dense layer", "a layer of experts", "all that is kept", "most at once")
    lines += ["", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in rows:
        pairs = (
            (one.dense, one.dense_estimate),
            (one.experts, one.experts_estimate),
            (one.kept, one.kept_estimate),
            (one.step, one.step_estimate),
        )
        cells = [f"{a:.0f} / {b:.0f} ({a / b:.2f})" if b else "" for a, b in pairs]
        lines.append(f"| {one.case} | {' | '.join(cells)} |")
    kept = [f"{one.case}: {said}" for one in rows for said in one.tensors]
    return "\n".join([*lines, "", *(f"- {one}" for one in (*failed, *kept))]) + "\n"


def main() -> int:
    """Measure each case, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results") / "activations", metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="mini/te,v3-layers/te", help="presets with an implementation")
    parser.add_argument("--seq-length", type=int, metavar="N", help="of all cases")
    parser.add_argument("--on-cpu", action="store_true", help="layers of `local` on a CPU")
    options = parser.parse_args()
    if not options.on_cpu and not gpus():
        print("memory is measured on a GPU, and none was found", file=sys.stderr)
        return 3
    wanted = [word for word in options.only.split(",") if word]
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    transport = "gloo" if options.on_cpu else "nccl"
    launch.prepare(transport)
    importlib.import_module("validation.run.warm" if options.on_cpu else "tests.core")  # megatron-core as a rank imports it
    rows, failed = list[Found](), list[str]()
    for preset, implementation, word, length in ON_CPU if options.on_cpu else CASES:
        if wanted and f"{preset}/{implementation}" not in wanted:
            continue
        try:
            rows.append(beside(preset, implementation, word, options.seq_length or length, transport))
        except Exception as error:  # whatever it is, the next case is measured
            failed.append(f"{preset} {implementation} single{word}: {error!r}"[:600])
        (options.out / "activations.json").write_text(json.dumps([asdict(one) for one in rows], indent=1))
        (options.out / "activations.md").write_text(table(rows, failed))
    print(table(rows, failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

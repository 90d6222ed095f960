"""`python -m validation tried`: switches that need a GPU or Transformer Engine, each tried on this machine.

A switch is a case of a small model with Transformer Engine in bf16, with two optimizer steps, beside the case without it: the
first step shows what CUDA graphs record, the second what they replay. What is tried of the machine's own is written into a
record by release, which docs/fields.md shows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validation.case import declared, fields, preflight, tree
from validation.case.annotation import Plain, Value
from validation.case.case import Case
from validation.case.empty import given_path
from validation.case.errors import EnvironmentMissing, ExitCode, UsageError
from validation.case.fields import Entry
from validation.case.layout import Layout
from validation.case.plural import many
from validation.case.preset import MINI
from validation.case.settings import BASE, written
from validation.case.strangers import quoted
from validation.case.training import Training
from validation.machine import gpu_names, version
from validation.recipe import tries
from validation.recipe.tries import BROKEN, DIFFERENT, EQUAL, NO_EFFECT, REFUSED, VERDICTS
from validation.run.options import Settings
from validation.scorecard.exercised import Seen, read_traces, settings
from validation.scorecard.traced import FOLDER, plugin_of

_NEEDS = ("te", "gpu", "extension")
_DISTRIBUTED: Mapping[str, Value] = {"ddp.use_distributed_optimizer": True, "optimizer.use_distributed_optimizer": True}
_OVERLAPPING: Mapping[str, Value] = {**_DISTRIBUTED, "ddp.overlap_grad_reduce": True}
_GRAPHS: Mapping[str, Value] = {"model.use_te_rng_tracker": True, "model.cuda_graph_scope": "attn"}
_ON: Mapping[str, Mapping[str, Value]] = {
    "model.tp_comm_overlap": {"model.tp_comm_overlap": True},
    "model.cross_entropy_loss_fusion": {"model.cross_entropy_loss_fusion": True},
    "model.overlap_moe_expert_parallel_comm": {"model.overlap_moe_expert_parallel_comm": True},
    "model.cpu_offloading": {"model.cpu_offloading": True, "model.cpu_offloading_num_layers": 1},
    "model.fine_grained_activation_offloading": {
        "model.fine_grained_activation_offloading": True,
        "model.offload_modules": ("core_attn",),
    },
    "model.cuda_graph_impl": {**_GRAPHS, "model.cuda_graph_impl": "transformer_engine"},
    "model.batch_invariant_mode": {"model.batch_invariant_mode": True},
    "model.use_transformer_engine_op_fuser": {"model.use_transformer_engine_op_fuser": True},
    "model.recompute_granularity": {
        "model.recompute_granularity": "full",
        "model.recompute_method": "uniform",
        "model.recompute_num_layers": 1,
    },
    "ddp.nccl_ub": {**_DISTRIBUTED, "ddp.nccl_ub": True},
    "ddp.use_distributed_optimizer": _DISTRIBUTED,
    "optimizer.use_precision_aware_optimizer": {**_DISTRIBUTED, "optimizer.use_precision_aware_optimizer": True},
    "optimizer.optimizer_cpu_offload": {
        **_DISTRIBUTED,
        "optimizer.use_precision_aware_optimizer": True,
        "optimizer.optimizer_cpu_offload": True,
        "optimizer.optimizer_offload_fraction": 1.0,
    },
}
"""What turns on the field without which nothing reads another one."""
_VALUES: Mapping[str, tuple[Value, ...]] = {
    "model.cross_entropy_fusion_impl": ("te",),
    "model.attention_backend": ("fused", "unfused", "flash"),
    "model.cuda_graph_impl": ("local", "transformer_engine"),
    "model.cuda_graph_modules": ("attn",),
    "model.cuda_graph_scope": ("attn,mlp",),
    "model.cuda_graph_warmup_steps": (1,),
    "model.cp_comm_type": ("p2p",),
    "model.cpu_offloading_num_layers": (1,),
    "model.offload_modules": (
        ("expert_fc1",),
        ("moe_act",),
        ("attn_norm",),
        ("mlp_norm",),
        ("core_attn", "attn_proj"),
        ("qkv_linear",),
    ),
    "model.min_offloaded_tensor_size": (1024,),
    "model.symmetric_ar_type": ("two_shot",),
    "model.recompute_granularity": ("selective",),
    "model.recompute_modules": (
        ("core_attn",),
        ("layernorm",),
        ("mla_up_proj",),
        ("mlp",),
        ("moe",),
        ("moe_act",),
        ("shared_experts",),
    ),
    "model.recompute_num_layers": (2,),
    "model.moe_token_dispatcher_type": ("allgather",),
    "ddp.bucket_size": (1000,),
    "optimizer.exp_avg_dtype": ("float16",),
    "optimizer.exp_avg_sq_dtype": ("float16",),
    "optimizer.main_grads_dtype": ("bfloat16",),
    "optimizer.optimizer_offload_fraction": (0.5,),
}
"""Values of what is neither true nor false."""
_TOGETHER: Mapping[str, Mapping[str, Value]] = {
    "model.cpu_offloading": _ON["model.cpu_offloading"],
    "model.fine_grained_activation_offloading": _ON["model.fine_grained_activation_offloading"],
    "model.cuda_graph_impl": _GRAPHS,
    "model.cuda_graph_modules": {"model.cuda_graph_impl": "transformer_engine", "model.use_te_rng_tracker": True},
    "model.enable_cuda_graph": _GRAPHS,
    "model.external_cuda_graph": _GRAPHS,
    "model.recompute_modules": {"model.recompute_granularity": "selective"},
    "model.delay_wgrad_compute": {"ddp.delay_wgrad_compute": True},
    "ddp.delay_wgrad_compute": {"model.delay_wgrad_compute": True},
    "optimizer.optimizer_cpu_offload": _ON["optimizer.optimizer_cpu_offload"],
}
"""What is part of a switch: the run without it does not have that either."""
_BESIDE: Mapping[str, Mapping[str, Value]] = {
    "model.recompute_modules": {},
    "model.recompute_method": {},
    "model.cuda_graph_modules": {},
    "model.cpu_offloading_activations": {**_ON["model.cpu_offloading"], "model.cpu_offloading_weights": True},
    "model.moe_pad_expert_input_to_capacity": {"model.moe_expert_capacity_factor": 4.0},
    "model.ep_overlap_early_attn_memory_release": _ON["model.overlap_moe_expert_parallel_comm"],
    "ddp.overlap_param_gather": _OVERLAPPING,
    "ddp.align_param_gather": {**_OVERLAPPING, "ddp.overlap_param_gather": True},
    "ddp.average_in_collective": {"model.calculate_per_token_loss": False},
    "ddp.delay_wgrad_compute": _ON["model.overlap_moe_expert_parallel_comm"],
    "ddp.nccl_ub": _DISTRIBUTED,
    "optimizer.use_precision_aware_optimizer": _DISTRIBUTED,
    "optimizer.optimizer_cpu_offload": {**_DISTRIBUTED, "optimizer.use_precision_aware_optimizer": True},
    "optimizer.overlap_param_gather": {**_OVERLAPPING, "ddp.overlap_param_gather": True},
    "optimizer.overlap_param_gather_with_optimizer_step": {**_OVERLAPPING, "ddp.overlap_param_gather": True},
}
"""What a switch asks for beside itself, if that is more or less than what its `with` says. Both runs have it."""
_LAYOUTS: Mapping[str, str] = {
    "model.tp_comm": "tp2",
    "model.symmetric_ar_type": "tp2",
    "model.mla_down_proj_fusion": "tp2",
    "model.defer_embedding": "pp2",
    "optimizer.overlap_param_gather_with_optimizer_step": "pp2vpp2",
    "model.wgrad_deferral": "pp2",
    "model.cp_comm_type": "cp2",
    "model.overlap_moe_expert_parallel_comm": "ep2",
    "model.delay_wgrad_compute": "ep2",
    "ddp.delay_wgrad_compute": "ep2",
    "model.ep_overlap": "ep2",
    "model.high_priority_a2a": "ep2",
    "model.overlap_dispatch_backward": "ep2",
    "model.moe_shared_expert_overlap": "ep2",
    "model.moe_permute_fusion": "ep2",
    "model.overlap_p2p_comm": "pp2vpp2",
    "model.batch_p2p": "pp2",
    "model.variable_seq_lengths": "pp2",
    "model.deallocate_pipeline_outputs": "pp2",
    "model.moe_token_dispatcher_type": "ep2",
    "ddp.": "dp2",
    "optimizer.overlap_param_gather": "dp2",
}
"""The layout that shows a switch, by how its name begins; else a rank alone."""
_NUMBERS: Mapping[str, Mapping[str, Any]] = {"model.cpu_offloading": {"first_k_dense_replace": 2}}
"""Numbers of the model that a switch asks for, by how its name begins.

Since 0.18 a shared expert copies the configuration, which has the CUDA streams of cpu_offloading and cannot be copied. Layers
without experts have none:
https://github.com/NVIDIA/Megatron-LM/blob/core_v0.19.0/megatron/core/transformer/moe/shared_experts.py
"""


@dataclass(frozen=True)
class Switch:
    """A setting that is tried."""

    name: str
    value: Value

    @property
    def said(self) -> str:
        """`model.moe_permute_fusion=true`."""
        return f"{self.name}={written(self.value)}"

    @property
    def layout(self) -> str:
        """In which it shows."""
        return next((layout for begin, layout in _LAYOUTS.items() if self.name.startswith(begin)), "single")

    @property
    def beside(self) -> Mapping[str, Value]:
        """Settings that both runs have."""
        return _BESIDE.get(self.name, _ON.get(fields.entry(self.name).with_field, {}))

    @property
    def cases(self) -> tuple[Case, Case]:
        """The case without it and the one with it."""
        given = {**self.beside, **_TOGETHER.get(self.name, {}), self.name: self.value}
        numbers = next((found for begin, found in _NUMBERS.items() if self.name.startswith(begin)), {})
        return _case(self.layout, self.beside, numbers), _case(self.layout, given, numbers)

    @property
    def refusal(self) -> str | None:
        """Why the case with it cannot be, None if it can."""
        from validation.run.known import refusal

        try:
            with_it = self.cases[1]
        except UsageError as error:
            return str(error)
        return next((said for rule in preflight.RULES if (said := rule(with_it))), None) or refusal(with_it)


def _case(layout: str, given: Mapping[str, Value], numbers: Mapping[str, Any]) -> Case:
    degrees, transport = Layout.parse(layout), "nccl" if layout == "single" else "staged"
    model = replace(MINI.model, num_hidden_layers=2 * degrees.vpp, **numbers)
    training = Training(steps=2).with_settings({"optimizer.lr": 1e-3, **given})
    # As many sequences as an interleaved schedule of two stages takes.
    return Case("mini", model, degrees, "bf16", "te", transport, 1234, 4, 1, 256, training=training)


def switches(here: declared.Fields) -> tuple[Switch, ...]:
    """Every field that must not change a number, with each value that is worth a try on a GPU; first what a CPU cannot have."""
    found = []
    for name, field in here.items():
        entry = fields.entries().get(name)
        if entry is not None and is_tried(entry):
            found += [Switch(name, value) for value in _values(entry, field)]
    return tuple(sorted(found, key=lambda one: not fields.entry(one.name).need(one.value)))


def is_tried(entry: Entry) -> bool:
    """Whether the record is about a field: it changes no number, and needs nothing that is a package of its own."""
    return entry.kind in ("machine", "neutral") and entry.needs in ("", *_NEEDS)


def _values(entry: Entry, field: declared.Field) -> Sequence[Value]:
    if entry.name in _VALUES:
        return _VALUES[entry.name]
    if field.type != Plain(bool):
        return ()
    return (not BASE.get(entry.name, _ON.get(entry.with_field, {}).get(entry.name, field.default == "True")),)


@dataclass(frozen=True)
class Trial:
    """What came of a switch: a verdict, how many checks there were, how many lines of megatron-core ran otherwise, and why.

    `lines` is None if nothing was noted. `read` says whether megatron-core has read the field.
    """

    verdict: str
    checks: int = 0
    lines: int | None = None
    read: bool = False
    why: str = ""

    @property
    def line(self) -> str:
        """In words."""
        counted = self.verdict in (EQUAL, NO_EFFECT) and self.lines is not None
        seen = f", {many(self.lines or 0, 'other line')} of Megatron-Core{', which reads the field' if self.read else ''}"
        checks = f" ({many(self.checks, 'check')}{seen if counted else ''})" if self.checks else ""
        return f"{self.verdict}{checks}{f': {self.why}' if self.why else ''}"

    def record(self, layout: str, machine: str) -> dict[str, object]:
        """As the record has it."""
        said = {"verdict": self.verdict, "layout": layout, "checks": self.checks, "lines": self.lines, "on": machine}
        return said | ({"why": self.why[:400]} if self.why else {})


def machine() -> str:
    """What the switches run on, in words. Raises EnvironmentMissing without a GPU."""
    names = gpu_names()
    if not names:
        raise EnvironmentMissing("`tried` needs an NVIDIA GPU, and none was found; `exercised` tries switches on the CPU")
    return f"{names[0]}, torch {version('torch')}, Transformer Engine {version('transformer-engine')}"


class Bench:
    """Runs cases on warm ranks, each once, and keeps what is noted of their lines."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        from validation.run.runner import Runner

        self._runner, self._folder = Runner(settings), folder
        self._keys = {case: f"{settings.cases[0].transport}{number}" for number, case in enumerate(settings.cases)}
        self._found: dict[Case, tuple[Trial, Seen | None]] = {}

    def start(self, cases: Iterable[Case]) -> None:
        """Have them run, in this order."""
        for case in cases:
            self._runner.start([case, *_mended(case)], plugin_of(self._keys[case]))

    def found(self, case: Case) -> tuple[Trial, Seen | None]:
        """What the checks say of a case, and what its ranks have left of its lines; waits for it."""
        if case not in self._found:
            self._found[case] = self._judged(case), read_traces(sorted(self._folder.glob(f"{self._keys[case]}-*.json")))
        return self._found[case]

    def _judged(self, case: Case) -> Trial:
        from validation.checks.verdicts import verdicts

        results = [self._runner.result(one, plugin_of(self._keys[case])) for one in (case, *_mended(case))]
        if broken := next((result.broken for result in results if result.broken), None):
            return Trial(BROKEN, why=broken.sentence)
        said = list(verdicts(results[0], results[-1]))
        wrong = sorted((one for one in said if one.status in ("fail", "error")), key=lambda one: one.place)
        return Trial(DIFFERENT if wrong else EQUAL, len(said), why=wrong[0].line if wrong else "")

    def close(self) -> None:
        """End what is still running."""
        self._runner.close()


def _mended(case: Case) -> tuple[Case, ...]:
    from validation.run.known import mended

    other = mended(case)
    return () if other == case else (other,)


def trial(switch: Switch, bench: Bench) -> Trial:
    """What came of a switch; waits for it."""
    without, with_it = switch.cases
    base, before = bench.found(without)
    if base.verdict != EQUAL:
        return Trial(BROKEN, why=f"beside it, {_said(switch.beside)} is {base.verdict}: {base.why}")
    found, after = bench.found(with_it)
    if before is None or after is None:
        return found
    lines, read = len(before.lines ^ after.lines), switch.name in after.read
    verdict = NO_EFFECT if found.verdict == EQUAL and not (lines or read) else found.verdict
    return replace(found, verdict=verdict, lines=lines, read=read)


def _said(given: Mapping[str, Value]) -> str:
    return ", ".join(f"{name}={written(value)}" for name, value in given.items()) or "the case without it"


def add_options(add: Callable[..., Any]) -> None:
    """The options of the command."""
    add("--only", action="append", default=[], metavar="FIELD", help="this field alone; repeatable, in the order of trials")
    add("--jobs", type=int, default=2, metavar="N", help="cases that run at the same time (default 2)")
    add("--missing", action="store_true", help="only what the record does not have of this release of megatron-core")
    add("--write", action="store_true", help="keep what came of each in the record that docs/fields.md shows")
    add("--take", type=given_path, metavar="FILE", help="try nothing: take in the record that another machine has written")


def run(options: argparse.Namespace, command: str) -> int:
    """Try what is asked for, print it and keep it; returns the exit code. Raises PlumblineError."""
    if options.write or options.take:
        tree.needs_a_checkout("--take" if options.take else "--write")
    if options.take:
        return _take(options.take)
    here = declared.here()
    asked = [one for one in switches(here) if not options.only or one.name in options.only]
    asked.sort(key=lambda one: options.only.index(one.name) if options.only else 0)
    for name in options.only:
        declared.find(here, name)
        if name not in {one.name for one in asked}:
            raise UsageError(f"--only {name}: no value of it is tried; `{tree.VALIDATION} fields {name}` says what it is")
    if options.missing:
        known = tries.record().get(version("megatron-core"), {})
        asked = [one for one in asked if one.said not in known]
    on = machine()
    for switch, found in trials(asked, options.jobs, command):
        sys.stdout.write(f"{switch.said:60} {switch.layout:8} {found.line}\n")
        sys.stdout.flush()
        if options.write:
            tries.keep({switch.said: found.record(switch.layout, on)}, version("megatron-core"))
    return int(ExitCode.PASS)


def _take(path: Path) -> int:
    """Take in a record. Raises UsageError if the file is none."""
    try:
        record: tries.Record = json.loads(path.read_text(encoding="utf-8"))
        wrong = next((said for found in record.values() for said in found.values() if said["verdict"] not in VERDICTS), None)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"--take {path}: no record of switches ({error}); `{tree.VALIDATION} tried --write` makes one"
        ) from None
    if wrong is not None:
        raise UsageError(f"--take {path}: verdict {quoted(str(wrong['verdict']))} is none of {', '.join(VERDICTS)}")
    for release, found in record.items():
        tries.keep(found, release)
        sys.stdout.write(f"megatron-core {release}: {many(len(found), 'setting')}\n")
    return int(ExitCode.PASS)


def trials(asked: Sequence[Switch], jobs: int, command: str) -> Iterator[tuple[Switch, Trial]]:
    """What comes of each switch: first those that are refused, then the others as they end."""
    refused = {switch: said for switch in asked if (said := switch.refusal)}
    yield from ((switch, Trial(REFUSED, why=said)) for switch, said in refused.items())
    left = [switch for switch in asked if switch not in refused]
    if not left:
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder  # before the first process is started from which ranks are forked
        try:
            yield from _run(left, jobs, command, Path(folder))
        finally:
            del os.environ[FOLDER]


def _run(left: Sequence[Switch], jobs: int, command: str, folder: Path) -> Iterator[tuple[Switch, Trial]]:
    from validation.run.prepare import prepare

    cases = tuple(dict.fromkeys(case for switch in left for case in switch.cases))
    for transport in ("nccl", "staged"):  # ranks over nccl have a GPU each, so one command has one transport
        of_it = tuple(case for case in cases if case.transport == transport)
        if not of_it:
            continue
        # What Megatron-Core says against a case is what comes of it: it is asked by the ranks.
        asked = replace(prepare(settings(of_it[:1], "results/tried", 120.0, jobs, command)), cases=of_it)
        bench, here = Bench(asked, folder), [switch for switch in left if switch.cases[1].transport == transport]
        try:
            yield from _of_one_transport(here, bench)
        finally:
            bench.close()


def _of_one_transport(here: Sequence[Switch], bench: Bench) -> Iterator[tuple[Switch, Trial]]:
    """First what stands alone, then what goes with it: a part of what does not run is not run either."""
    alone, parts = [one for one in here if not one.beside], [one for one in here if one.beside]
    bench.start(dict.fromkeys(case for one in alone for case in one.cases))
    yield from ((one, trial(one, bench)) for one in alone)
    bench.start(dict.fromkeys(one.cases[0] for one in parts))
    sound = [one for one in parts if bench.found(one.cases[0])[0].verdict == EQUAL]
    bench.start(dict.fromkeys(one.cases[1] for one in sound))
    yield from ((one, trial(one, bench)) for one in parts)

"""`python -m validation exercised`: which switches have any effect in a case on the CPU, measured and not declared.

A switch is tried in small cases with it and without it. It is exercised if other lines of megatron-core run, or if its value is
a number or a name and megatron-core reads it on the way. A switch that is accepted and changes neither proves nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from validation.case import declared, fields, preflight
from validation.case.annotation import Plain, Value
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.preset import TINY
from validation.case.settings import BASE, written
from validation.case.training import Training
from validation.run.options import Settings
from validation.run.runner import Runner
from validation.scorecard.traced import FOLDER, plugin_of

TABLE = Path(__file__).parents[1] / "recipe" / "exercised.json"
"""What was measured, by release."""
_LAYOUTS = ("single", "tp2ep2", "pp2vpp2")
_VALUES: Mapping[str, tuple[Value, ...]] = {
    "model.recompute_modules": (("mlp",), ("moe",), ("layernorm",), ("mla_up_proj",), ("moe_act",), ("core_attn",), ("shared_experts",)),
    "model.mtp_loss_scaling_factor": (0.1,),
    "model.moe_router_bias_update_rate": (1e-3,),
    "model.moe_aux_loss_coeff": (1e-4,),
    "model.moe_z_loss_coeff": (1e-3,),
    "model.moe_expert_capacity_factor": (4.0,),
    "model.init_method_std": (0.006,),
    "model.embedding_init_method_std": (0.006,),
    "model.microbatch_group_size_per_vp_stage": (4,),
    "model.num_microbatches_with_partial_activation_checkpoints": (1,),
    "model.moe_router_dtype": ("fp32",),
    "model.moe_token_dispatcher_type": ("allgather",),
    "model.moe_token_drop_policy": ("position",),
    "model.recompute_granularity": ("selective",),
    "ddp.bucket_size": (1000,),
    "optimizer.lr": (2e-4,),
    "optimizer.weight_decay": (0.01,),
    "optimizer.adam_beta1": (0.95,),
    "optimizer.adam_beta2": (0.999,),
    "optimizer.adam_eps": (1e-15,),
    "optimizer.clip_grad": (1.0,),
}
"""Values of what is neither true nor false."""
_WITH: Mapping[str, Mapping[str, Value]] = {
    "model.recompute_modules": {"model.recompute_granularity": "selective"},
    "model.moe_aux_loss_coeff": {"model.moe_router_load_balancing_type": "seq_aux_loss"},
    "model.moe_pad_expert_input_to_capacity": {"model.moe_expert_capacity_factor": 4.0},
    "model.moe_token_drop_policy": {"model.moe_expert_capacity_factor": 4.0},
    "ddp.overlap_param_gather": {"ddp.use_distributed_optimizer": True, "ddp.overlap_grad_reduce": True},
    "ddp.align_param_gather": {"ddp.use_distributed_optimizer": True, "ddp.overlap_grad_reduce": True, "ddp.overlap_param_gather": True},
    "ddp.bucket_size": {"ddp.overlap_grad_reduce": True},
    "ddp.average_in_collective": {"model.calculate_per_token_loss": False},
    "ddp.pad_buckets_for_high_nccl_busbw": {"ddp.use_distributed_optimizer": True},
    "ddp.reduce_scatter_with_fp32_accumulation": {"ddp.use_distributed_optimizer": True},
    "optimizer.overlap_param_gather": {"ddp.use_distributed_optimizer": True, "ddp.overlap_grad_reduce": True, "ddp.overlap_param_gather": True},
}
"""What a switch asks for beside itself. Both runs have it."""


@dataclass(frozen=True)
class Switch:
    """A setting that is tried, with what it needs beside it."""

    name: str
    value: Value

    @property
    def beside(self) -> Mapping[str, Value]:
        """Settings that both runs have."""
        return _WITH.get(self.name, {})

    @property
    def said(self) -> str:
        """`model.bias_activation_fusion=true`."""
        return f"{self.name}={written(self.value)}"


@dataclass(frozen=True)
class Seen:
    """What ranks left of one case: the lines that they ran, by file, and the fields that they read."""

    lines: frozenset[tuple[str, int]]
    read: frozenset[str]


def switches(here: declared.Fields) -> tuple[Switch, ...]:
    """Every field that may be set on a CPU, with each value that is worth a try."""
    found = []
    for name, field in here.items():
        entry = fields.entries().get(name)
        if entry is None or entry.kind not in ("neutral", "meaning"):
            continue
        for value in _VALUES.get(name, (not BASE.get(name, field.default == "True"),) if _is_bool(field) else ()):
            if entry.computed(value) and not entry.need(value):
                found.append(Switch(name, value))
    return tuple(found)


def _is_bool(field: declared.Field) -> bool:
    return field.type == Plain(bool)


def cases(switch: Switch) -> list[tuple[Case, Case]]:
    """The cases with the switch, each beside the one without, of those layouts in which it can be set."""
    found = []
    for name in _LAYOUTS:
        from validation.case.layout import Layout

        base = Case("tiny", TINY.model, Layout.parse(name), "fp64", "local", "gloo", 1234, 8, 1, TINY.seq_length)
        without = replace(base, training=Training(steps=1).with_settings(switch.beside))
        with_it = replace(base, training=Training(steps=1).with_settings({**switch.beside, switch.name: switch.value}))
        if without != with_it and not any(rule(case) for case in (without, with_it) for rule in preflight.RULES):
            found.append((without, with_it))
    return found


def measure(tried: Sequence[Switch], settings: Settings) -> dict[str, dict[str, object]]:
    """By switch: whether it is exercised, in which layouts, by how many lines, and why not. Raises PlumblineError."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        try:
            seen = _seen(dict.fromkeys(case for switch in tried for pair in cases(switch) for case in pair), settings, Path(folder))
        finally:
            del os.environ[FOLDER]
    return {switch.said: _told(switch, seen) for switch in tried}


def _seen(wanted: Iterable[Case], settings: Settings, folder: Path) -> dict[Case, Seen | str]:
    runner, listed = Runner(settings), list(wanted)
    keys = {case: f"case{number}" for number, case in enumerate(listed)}
    found: dict[Case, Seen | str] = {}
    try:
        for case in listed:
            runner.start([case], plugin_of(keys[case]))
        for case in listed:
            result = runner.result(case, plugin_of(keys[case]))
            found[case] = _of_files(sorted(folder.glob(f"{keys[case]}-*.json"))) or str(result.error)
    finally:
        runner.close()
    return found


def _of_files(paths: Sequence[Path]) -> Seen | None:
    if not paths:
        return None
    data = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    lines = {(file, line) for one in data for file, lines in one["lines"].items() for line in lines}
    return Seen(frozenset(lines), frozenset(name for one in data for name in one["read"]))


def _told(switch: Switch, seen: Mapping[Case, Seen | str]) -> dict[str, object]:
    lines, read, broke = {}, False, ""
    for without, with_it in cases(switch):
        before, after = seen[without], seen[with_it]
        if isinstance(before, str) or isinstance(after, str):
            broke = before if isinstance(before, str) else str(after)
            continue
        lines[with_it.layout.name] = len(before.lines ^ after.lines)
        read |= switch.name in after.read
    told: dict[str, object] = {"lines": lines, "read": read}
    return told | ({"broke": broke} if broke else {})

"""`python -m validation exercised`: which switches have any effect in a case on the CPU, measured and not declared.

A switch is tried in small cases with it and without it. It is exercised if other lines of megatron-core run, or if its value is
a number or a name and megatron-core reads it on the way. A switch that is accepted and changes neither proves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validation.cache import limit
from validation.case import declared, fields, preflight, tree, writing
from validation.case.annotation import Plain, Value
from validation.case.case import Case
from validation.case.errors import ExitCode, UsageError
from validation.case.home import home
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.setting_rules import CAPACITY
from validation.case.settings import BASE, written
from validation.case.training import Training
from validation.machine import version
from validation.run.options import Settings
from validation.run.prepare import prepare
from validation.scorecard.traced import FOLDER, plugin_of

TABLE = Path(__file__).parents[1] / "recipe" / "exercised.json"
"""What was measured, by release."""
_LAYOUTS = ("single", "tp2ep2", "pp2vpp2")
_IN: Mapping[str, tuple[str, ...]] = {"ddp.num_distributed_optimizer_instances": ("dp4",)}
"""Layouts of a switch that is about so many ranks, instead of _LAYOUTS."""
_VALUES: Mapping[str, tuple[Value, ...]] = {
    "model.recompute_modules": (
        ("mlp",),
        ("moe",),
        ("layernorm",),
        ("mla_up_proj",),
        ("moe_act",),
        ("core_attn",),
        ("shared_experts",),
    ),
    "model.mtp_loss_scaling_factor": (0.1,),
    "model.moe_router_bias_update_rate": (1e-3,),
    "model.moe_router_load_balancing_type": ("seq_aux_loss", "aux_loss"),
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
    "model.recompute_method": ("block",),
    "model.recompute_num_layers": (2,),
    "model.pipeline_model_parallel_layout": ("E|tt|t|tL",),
    "ddp.bucket_size": (1000,),
    "ddp.num_distributed_optimizer_instances": (2,),
    "optimizer.lr": (2e-4,),
    "optimizer.min_lr": (1e-5,),
    "optimizer.decoupled_lr": (1e-3,),
    "optimizer.decoupled_min_lr": (1e-4,),
    "optimizer.optimizer": ("sgd",),
    "optimizer.sgd_momentum": (0.5,),
    "optimizer.weight_decay": (0.01,),
    "optimizer.adam_beta1": (0.95,),
    "optimizer.adam_beta2": (0.999,),
    "optimizer.adam_eps": (1e-15,),
    "optimizer.clip_grad": (1.0,),
}
"""Values of what is neither true nor false."""
_TOGETHER: Mapping[str, Mapping[str, Value]] = {
    "model.recompute_modules": {"model.recompute_granularity": "selective"},
    "model.moe_router_load_balancing_type": {"model.moe_aux_loss_coeff": 0.1},
}
"""What is part of a switch: the run without it does not have that either."""
_FULL: Mapping[str, Value] = {
    "model.recompute_granularity": "full",
    "model.recompute_method": "uniform",
    "model.recompute_num_layers": 1,
}
_WITH: Mapping[str, Mapping[str, Value]] = {
    "model.moe_aux_loss_coeff": {"model.moe_router_load_balancing_type": "seq_aux_loss"},
    "model.moe_pad_expert_input_to_capacity": {"model.moe_expert_capacity_factor": 4.0},
    "model.moe_token_drop_policy": {"model.moe_expert_capacity_factor": 4.0},
    "model.ep_overlap_early_attn_memory_release": {"model.overlap_moe_expert_parallel_comm": True},
    "model.recompute_method": _FULL,
    "model.recompute_num_layers": _FULL,
    "optimizer.min_lr": {"scheduler.lr_decay_style": "cosine", "scheduler.lr_decay_steps": 4},
    "optimizer.decoupled_min_lr": {
        "optimizer.decoupled_lr": 1e-3,
        "scheduler.lr_decay_style": "cosine",
        "scheduler.lr_decay_steps": 4,
    },
    "optimizer.sgd_momentum": {"optimizer.optimizer": "sgd"},
    "ddp.overlap_param_gather": {"ddp.use_distributed_optimizer": True, "ddp.overlap_grad_reduce": True},
    "ddp.align_param_gather": {
        "ddp.use_distributed_optimizer": True,
        "ddp.overlap_grad_reduce": True,
        "ddp.overlap_param_gather": True,
    },
    "ddp.bucket_size": {"ddp.overlap_grad_reduce": True},
    "ddp.average_in_collective": {"model.calculate_per_token_loss": False},
    "ddp.num_distributed_optimizer_instances": {"ddp.use_distributed_optimizer": True},
    "ddp.pad_buckets_for_high_nccl_busbw": {"ddp.use_distributed_optimizer": True},
    "ddp.reduce_scatter_with_fp32_accumulation": {"ddp.use_distributed_optimizer": True},
    "optimizer.overlap_param_gather_with_optimizer_step": {
        "ddp.use_distributed_optimizer": True,
        "ddp.overlap_grad_reduce": True,
        "ddp.overlap_param_gather": True,
    },
    "optimizer.overlap_param_gather": {
        "ddp.use_distributed_optimizer": True,
        "ddp.overlap_grad_reduce": True,
        "ddp.overlap_param_gather": True,
    },
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
        if entry is None or not (entry.kind in ("neutral", "meaning") or name in _VALUES):
            continue
        for value in _VALUES.get(name, (not BASE.get(name, field.default == "True"),) if _is_bool(field) else ()):
            if (entry.computed(value) or name == CAPACITY) and not entry.need(value):  # enough for every token
                found.append(Switch(name, value))
    return tuple(switch for switch in found if cases(switch))


def _is_bool(field: declared.Field) -> bool:
    return field.type == Plain(bool)


def cases(switch: Switch) -> list[tuple[Case, Case]]:
    """The cases with the switch, each beside the one without, of those layouts in which it can be set."""
    found = []
    for name in _IN.get(switch.name, _LAYOUTS):
        # What is about MTP layers shows in a model that has one.
        model = replace(TINY.model, num_nextn_predict_layers=1) if switch.name.startswith("model.mtp") else TINY.model
        base = Case("tiny", model, Layout.parse(name), "fp64", "local", "gloo", 1234, 8, 1, TINY.seq_length)
        without = replace(base, training=Training(steps=1).with_settings(switch.beside))
        with_it = replace(
            base,
            training=Training(steps=1).with_settings(
                {**switch.beside, **_TOGETHER.get(switch.name, {}), switch.name: switch.value}
            ),
        )
        if without != with_it and not any(map(_refusal, (without, with_it))):
            found.append((without, with_it))
    return found


def _refusal(case: Case) -> str | None:
    from validation.run.known import refusal

    return next((said for rule in preflight.RULES if (said := rule(case))), None) or refusal(case)


def measure(tried: Sequence[Switch], settings: Settings) -> dict[str, dict[str, object]]:
    """By switch: the layouts in which other lines run, how many, and whether the field is read. Raises PlumblineError."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder  # before the first process is started from which ranks are forked
        try:
            prepare(settings)
            seen = _seen(settings, Path(folder))
        finally:
            del os.environ[FOLDER]
    return {switch.said: _told(switch, seen) for switch in tried}


def all_cases(tried: Iterable[Switch]) -> tuple[Case, ...]:
    """Those of all switches, each once."""
    return tuple(dict.fromkeys(case for switch in tried for pair in cases(switch) for case in pair))


def _seen(settings: Settings, folder: Path) -> dict[Case, Seen | str]:
    from validation.run.runner import Runner

    runner, listed = Runner(settings), settings.cases
    keys = {case: f"case{number}" for number, case in enumerate(listed)}
    found: dict[Case, Seen | str] = {}
    try:
        for case in listed:
            runner.start([case], plugin_of(keys[case]))
        for case in listed:
            result = runner.result(case, plugin_of(keys[case]))
            left = read_traces(sorted(folder.glob(f"{keys[case]}-*.json")))
            found[case] = (
                left if left and not result.broken else result.broken.sentence if result.broken else "it left no trace"
            )
            sys.stdout.write(f"{case.title}\n")
            sys.stdout.flush()
    finally:
        runner.close()
    return found


def read_traces(paths: Sequence[Path]) -> Seen | None:
    """What the ranks of one case have left in these files; None if there is no file."""
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


def add_options(add: Callable[..., Any]) -> None:
    """The options of the command."""
    add(
        "--only",
        action="append",
        default=[],
        metavar="FIELD",
        help="this field alone, such as model.bias_dropout_fusion; repeatable",
    )
    add("--jobs", type=int, default=2, metavar="N", help="cases that run at the same time (default 2)")
    add(
        "--write", action="store_true", help="write what was measured of this release into the table that recipes are told with"
    )


def run(options: argparse.Namespace, command: str) -> int:
    """Measure what is asked for and print it; returns the exit code. Raises PlumblineError."""
    here = declared.here()
    tried = switches(here)
    for name in options.only:
        declared.find(here, name)
        if name not in {switch.name for switch in tried}:
            raise UsageError(
                f"--only {name}: no value of it can be tried on a CPU; `{tree.VALIDATION} fields {name}` says what it is"
            )
    tried = tuple(switch for switch in tried if not options.only or switch.name in options.only)
    if options.write:
        tree.needs_a_checkout("--write")
    found = measure(tried, settings(all_cases(tried), "results/exercised", 600.0, options.jobs, command))
    for said, told in found.items():
        sys.stdout.write(f"{said:60} {told}\n")
    if options.write:
        _write(found)
    return int(ExitCode.PASS)


def settings(cases: tuple[Case, ...], results: str, timeout: float, jobs: int, command: str) -> Settings:
    """Of a command that runs cases to see what switches do; `timeout` in seconds."""
    place = home()
    return Settings(
        cases=cases,
        results=Path(results),
        home=place,
        timeout=timeout,
        max_ranks=8,
        jobs=jobs,
        debug=False,
        fresh=False,
        command=command,
        cache_limit=limit.limit(None, place),
    )


def _write(found: Mapping[str, Mapping[str, object]]) -> None:
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    table[version("megatron-core")] = {**table.get(version("megatron-core"), {}), **found}
    writing.write(TABLE, json.dumps(table, indent=1, sort_keys=True) + "\n")

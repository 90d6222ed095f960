"""Fields that are read from source are those of megatron-core's classes; the reference stands for what cases set."""

from __future__ import annotations

import dataclasses
import inspect

from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.transformer_config import MLATransformerConfig

import tests.core  # noqa: F401 - megatron-core as the ranks have it
from validation.candidate.config import transformer_config
from validation.case.declared import here
from validation.case.fields import entry
from validation.run.options import parsed

CLASSES = {"model": MLATransformerConfig, "ddp": DistributedDataParallelConfig, "optimizer": OptimizerConfig}


def test_the_source_has_the_fields_of_the_classes_in_their_order() -> None:
    there = [f"{section}.{field.name}" for section, kind in CLASSES.items() for field in dataclasses.fields(kind)]
    arguments = list(inspect.signature(OptimizerParamScheduler.__init__).parameters)
    there += [f"scheduler.{name}" for name in arguments if name not in ("self", "optimizer")]
    assert list(here()) == there


def test_a_field_has_a_default_if_its_class_has_one() -> None:
    for section, kind in CLASSES.items():
        for field in dataclasses.fields(kind):
            has = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            assert (here()[f"{section}.{field.name}"].default is not None) == has


def test_the_reference_stands_for_what_plumbline_itself_sets() -> None:
    """Every value of the configurations that cases have without any setting, by the table."""
    wrong = {}
    for case in parsed(["--layouts", "single,tp2+mean+seqaux,pp2+zloss,dp2+mtp,ep2+full"]).cases:
        config = transformer_config(case)
        for field in dataclasses.fields(config):
            one, value = entry(f"model.{field.name}"), getattr(config, field.name)
            if one.kind == "meaning" and one.only and not one.computed(value):
                wrong[one.name] = value
    assert wrong == {}

"""What becomes of each setting of a recipe in a case of its stand-in, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from validation.case import declared, fields, graphs, packages, sparse
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.preflight import ROUTERS
from validation.case.setting_rules import NUMBERS, wrong
from validation.case.settings import BASE, written
from validation.recipe import beyond, scale
from validation.recipe.recipe import Origin, Recipe, Setting, Source
from validation.recipe.standin import StandIn

_PLUMBLINES = ("model.perform_initialization", "model.use_cpu_initialization", "model.calculate_per_token_loss")
"""What Plumbline decides itself, or takes from elsewhere in the recipe."""
SPEC = "spec"
"""The function that makes layers of the recipe's own, among the settings."""
TRIED, CASE, SAME, NEEDS, REFUSED = "tried", "case", "same", "needs", "refused"
"""What becomes of a setting: it is set; the case's model, layout or precision says it; it is Plumbline's own value; it needs
what is not here; it cannot be compared."""
SHAPED = "shaped"
"""The sequences of the case's batches are as it says (validation.recipe.documents)."""
_SHARDS: Mapping[str, str] = {
    "model.tensor_parallel_num_weight_shards": "model.tensor_model_parallel_size",
    "model.expert_tensor_parallel_num_weight_shards": "model.expert_tensor_parallel_size",
}
"""Numbers of shards of a weight, and the degree at which there is one on each rank and nothing is gathered."""
LOWER = ("bf16", "fp16")
_SET_IN_LOWER = ("ddp.grad_reduce_in_fp32",)
"""Fields that Plumbline sets in bf16 and fp16, whatever upstream's own value is (validation.candidate.build)."""
ABSENT, IDLE, UNREAD, CHANGED = "absent", "idle", "unread", "changed"
"""This megatron-core does not have it; it changes no number; nothing reads it beside the others of the recipe; no case
runs with it, and the nearest that runs has another value."""


@dataclass(frozen=True)
class Told:
    """A setting of the recipe, what becomes of it, and why.

    `scaled` is the stand-in's value if it is another one, `text` how the recipe writes what is no setting.
    """

    setting: Setting
    state: str
    why: str = ""
    scaled: float | None = None
    text: str = ""

    @property
    def said(self) -> str:
        """`model.moe_permute_fusion=true`, or `--schedules-method dualpipev`."""
        return self.text or f"{self.setting.name}={written(self.setting.value)}"

    @property
    def value(self) -> Value:
        """What a case sets."""
        return self.setting.value if self.scaled is None else self.scaled


def told(recipe: Recipe, small: StandIn, case: Case) -> Iterator[Told]:
    """Every setting, and what changes numbers and is no field, but for what the sequences hold."""
    here = declared.here()
    settings = (*recipe.settings, *_left_to_upstream(recipe, here))
    values = initial(here) | {setting.name: setting.value for setting in settings}
    if graphs.KIND in here:
        values[graphs.KIND] = graphs.by(_recorded(values, here))
    for setting in settings:
        own = setting.name in _of_plumbline(recipe)
        one = _of_sparse(setting, values) or _one(setting, small, here, values, case, own=own)
        yield _read_by(recipe.implementation, one)
    if recipe.spec:
        layers = (
            "layers of the recipe's own; --implementation package.module:function compares a function that makes such layers"
        )
        yield Told(Setting(SPEC, recipe.spec, Origin(Source.GIVEN, "--spec")), REFUSED, layers)
    yield from (Told(one, REFUSED, beyond.WHY[one.name]) for one in recipe.beyond if one.name in beyond.WHY)


def _read_by(implementation: str, told: Told) -> Told:
    """The same, or that the implementation of the recipe never reads it: then the recipe's numbers do not depend on it."""
    if told.state in (TRIED, NEEDS, REFUSED) and implementation == fields.entry(told.setting.name).unread_by:
        return Told(told.setting, UNREAD, "Transformer Engine, with which the recipe trains, does not read it")
    return told


def initial(here: declared.Fields) -> dict[str, Value]:
    """Upstream's own value of each field that has one which text can say, by full names."""
    found: dict[str, Value] = {}
    for name, field in here.items():
        with contextlib.suppress(UsageError):
            found[name] = declared.initial(field)
    return found


def _of_plumbline(recipe: Recipe) -> tuple[str, ...]:
    """The fields that Plumbline sets in the precision of a recipe, and in a model such as its own."""
    beside = (sparse.KEY_NORM, sparse.ROTATED) if recipe.model.get("index_topk") is not None else ()
    return (*BASE, *(_SET_IN_LOWER if recipe.precision in LOWER else ()), *beside)


def _of_sparse(setting: Setting, values: Mapping[str, Value]) -> Told | None:
    """What becomes of a setting of sparse attention (DSA) that the model's numbers say; None for another."""
    if values.get(sparse.SHAPE[0]) != sparse.VARIANT:
        return None
    norm = setting.value if setting.value is not None else values.get("model.layernorm_epsilon")
    as_here = {sparse.KEY_NORM: norm == sparse.KEY_NORM_EPSILON, sparse.ROTATED: setting.value is False}
    if setting.name in sparse.SHAPE or as_here.get(setting.name):
        return Told(setting, CASE, "the model's numbers say it")
    without_loss = not values.get("model.dsa_indexer_loss_coeff")
    if without_loss and setting.name in ("model.dsa_indexer_loss_coeff", "model.dsa_indexer_use_sparse_loss"):
        return Told(setting, UNREAD, "the indexer has no loss of its own without dsa_indexer_loss_coeff")
    return None


def _left_to_upstream(recipe: Recipe, here: declared.Fields) -> Iterator[Setting]:
    """Fields that Plumbline sets and the recipe leaves at upstream's own default."""
    said = recipe.values
    origin = Origin(Source.DEFAULT, "default of megatron-core")
    for name in _of_plumbline(recipe):
        field = here.get(name)
        if name in said or field is None or name in _PLUMBLINES:
            continue
        with contextlib.suppress(UsageError):
            yield Setting(name, declared.initial(field), origin)


def _one(
    setting: Setting, small: StandIn, here: declared.Fields, values: Mapping[str, Value], case: Case, *, own: bool = False
) -> Told:
    """What becomes of a setting in a case of the stand-in.

    `own` says that Plumbline sets the field, so that upstream's default is none of a case's.
    """
    name = setting.name
    if name not in here:
        return Told(setting, ABSENT, "this megatron-core does not have the field")
    entry = fields.entry(name)
    if name in ROUTERS and not small.model.sigmoid:
        return Told(setting, CASE, "the model's way to choose experts says it")
    # What of fp8 a case has, its settings say.
    of_case = ("--precision", "--loss", "--implementation", *(() if values.get("model.fp8") else ("--fp8",)))
    sharded = name in _SHARDS and setting.value == values.get(_SHARDS[name])
    if entry.kind in ("shape", "layout") or entry.option in of_case or sharded:
        return Told(setting, CASE, entry.why)
    if entry.kind == "idle":
        return Told(setting, IDLE, entry.why)
    if (name in BASE and BASE[name] == setting.value) or (not own and _default(here[name], setting.value)):
        return Told(setting, SAME, "Plumbline's own value")
    if entry.unread(values):
        return Told(setting, UNREAD, f"nothing reads it with {entry.with_field}={written(values[entry.with_field])}")
    recorded = _recorded(values, here) if graphs.says(name) else {}
    need = graphs.need(recorded) or entry.need(setting.value)
    if need and (case.on_cpu or (need == "te" and not case.uses_te)):
        return Told(setting, NEEDS, fields.NEEDS[need])
    if sentence := graphs.refusal(recorded, case):
        return Told(setting, REFUSED, sentence)
    if package := packages.lacking(name, setting.value):
        return Told(setting, NEEDS, f"the package {package.name}")
    if (package := packages.OF_NEEDS.get(need)) and not package.is_here:
        return Told(setting, NEEDS, fields.NEEDS[need])
    if setting.value is None and (name in NUMBERS or not _takes_none(here[name])):
        return Told(setting, SAME, "nothing is said")
    try:
        value = declared.checked(here[name], setting.value)
        scaled = scale.of(name, value, small)
        there = value if scaled is None else scaled
        made = replace(case, training=case.training.with_settings({name: there}))
    except UsageError as error:
        return Told(setting, REFUSED, str(error))
    # At full size first, whose sentences have the recipe's own numbers.
    at_full_size = replace(made, model=small.full.model)
    if sentence := wrong(at_full_size, name, value) or scale.unfit(at_full_size, name, values) or wrong(made, name, there):
        return Told(setting, REFUSED, sentence.removeprefix(f"{name}={written(value)} cannot be compared: "))
    return Told(replace(setting, value=value), TRIED, scale.why(name, scaled, small), scaled)


def _recorded(values: Mapping[str, Value], here: declared.Fields) -> dict[str, Value]:
    """The fields of CUDA graphs that this megatron-core has, without their section: all of them are compared, or none."""
    return {name.removeprefix("model."): value for name, value in values.items() if graphs.says(name) and name in here}


def _takes_none(field: declared.Field) -> bool:
    try:
        return declared.checked(field, None) is None
    except UsageError:
        return False


def _default(field: declared.Field, value: Value) -> bool:
    """Whether it is what the dataclass has."""
    try:
        return declared.initial(field) == value
    except UsageError:
        return False

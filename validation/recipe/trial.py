"""What of a recipe is tried: its stand-in, the settings that both models can be compared with, and why others are left out."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as made
from functools import partial
from pathlib import Path

from validation.case import declared, fields, sparse
from validation.case.annotation import Opaque, Value, parts
from validation.case.case import ON_CPU, Case
from validation.case.errors import UsageError
from validation.case.pipeline_layout import FIELD
from validation.case.preflight import ROUTERS, RULES
from validation.case.preset import Preset
from validation.case.setting_rules import NUMBERS, wrong
from validation.case.settings import BASE, written
from validation.case.suggestions import join
from validation.case.training import Training
from validation.recipe import against, beyond, full, read
from validation.recipe.recipe import Origin, Recipe, Setting, Source
from validation.recipe.reduce import smallest
from validation.recipe.standin import StandIn, stand_in

_PLUMBLINES = ("model.perform_initialization", "model.use_cpu_initialization", "model.calculate_per_token_loss")
"""What Plumbline decides itself, or takes from elsewhere in the recipe."""
SPEC = "spec"
"""The function that makes layers of the recipe's own, among the settings."""
TRIED, CASE, SAME, NEEDS, REFUSED = "tried", "case", "same", "needs", "refused"
"""What becomes of a setting: it is set; the case's model, layout or precision says it; it is Plumbline's own value; it needs
what is not here; it cannot be compared."""
_SHARDS: Mapping[str, str] = {
    "model.tensor_parallel_num_weight_shards": "model.tensor_model_parallel_size",
    "model.expert_tensor_parallel_num_weight_shards": "model.expert_tensor_parallel_size",
}
"""Numbers of shards of a weight, and the degree at which there is one on each rank and nothing is gathered."""
_LOWER = ("bf16", "fp16")
_PACKAGES: Mapping[str, str] = {"ddp.num_distributed_optimizer_instances": "the package einops"}
"""Settings without a kernel that need a package which requirements do not bring."""
_NO_LIMIT = 1e9
"""A norm of gradients that no step has."""
_SET_IN_LOWER = ("ddp.grad_reduce_in_fp32",)
"""Fields that Plumbline sets in bf16 and fp16, whatever upstream's own value is (validation.candidate.build)."""
ABSENT, IDLE, UNREAD, CHANGED = "absent", "idle", "unread", "changed"
"""This megatron-core does not have it; it changes no number; nothing reads it beside the others of the recipe; no case
runs with it, and the nearest that runs has another value."""


_GOES_WITH: Mapping[str, Mapping[Value, str]] = {"model.recompute_modules": {"moe_act": "model.moe_grouped_gemm"}}
"""Words of a list, and the setting without which megatron-core refuses each (TransformerConfig.__post_init__)."""


@dataclass(frozen=True)
class Place:
    """Where the cases of a recipe run: implementation and transport, and the precision of the first if somebody says it."""

    implementation: str = "local"
    transport: str = "gloo"
    precision: str | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether ranks compute on the CPU."""
        return self.transport in ON_CPU

    def case(self, small: StandIn, recipe: Recipe) -> Case:
        """The first case of a stand-in, without settings: on a CPU in fp64, on GPUs in the recipe's precision."""
        precision = self.precision or ("fp64" if self.on_cpu else recipe.precision)
        case = small.case(precision=precision)
        return replace(case, implementation=self.implementation, transport=self.transport)


HERE = Place()
"""What every machine has."""


@dataclass(frozen=True)
class Told:
    """A setting of the recipe, what becomes of it, and why."""

    setting: Setting
    state: str
    why: str = ""

    @property
    def said(self) -> str:
        """`model.moe_permute_fusion=true`."""
        return f"{self.setting.name}={written(self.setting.value)}"


@dataclass(frozen=True)
class Trial:
    """A recipe, what stands for it, the options of its step, and what becomes of each of its settings.

    `instead` has the settings that are not the recipe's: a user's own, and those with which the nearest case runs.
    """

    recipe: Recipe
    small: StandIn
    training: Training
    told: tuple[Told, ...]
    instead: Mapping[str, Value] = made(default_factory=dict)

    @property
    def preset(self) -> Preset:
        """Model and data of the stand-in, under the recipe's name."""
        return self.small.preset(name_of(self.recipe))

    def of(self, *states: str) -> tuple[Told, ...]:
        """The settings of these states."""
        return tuple(one for one in self.told if one.state in states)

    @property
    def tried(self) -> tuple[Told, ...]:
        """The settings that are set."""
        return self.of(TRIED)

    @property
    def others(self) -> tuple[Told, ...]:
        """The settings that could change a number and that every case has otherwise: the verdict is not of these."""
        return self.of(CHANGED, REFUSED, ABSENT)

    def with_layers_of(self, implementation: str) -> Trial:
        """The same in cases of an implementation, which may be the function that makes the recipe's own layers."""
        own = (SPEC, implementation)
        return replace(self, told=tuple(one for one in self.told if (one.setting.name, one.setting.value) != own))

    def configured(self, given: Mapping[str, Value]) -> Trial:
        """The same with a user's own settings, which stand before the recipe's."""
        return replace(self, instead={**self.instead, **given}, training=self.training.with_settings(given))

    def changed(self, names: Collection[str], instead: Mapping[str, Value], why: str) -> Trial:
        """The nearest that runs: without these settings of the recipe, and with others instead. `why` is what ends it."""
        told = tuple(
            Told(one.setting, CHANGED, f"{why}; {_instead(one.setting, instead)}") if one.setting.name in names else one
            for one in self.told
        )
        found = replace(self, told=told, instead={**self.instead, **instead})
        return replace(found, training=_with(_base(self.small, self.recipe), found.tried).with_settings(found.instead))

    @property
    def lanes(self) -> tuple[str, ...]:
        """Names of settings that are tried and that fp64 hides: bf16 shows them."""
        return tuple(one.setting.name for one in self.of(TRIED) if fields.entry(one.setting.name).lane == "bf16")


def name_of(recipe: Recipe) -> str:
    """The file's name as a case's name has it: letters, digits and underscores."""
    stem = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in Path(recipe.source).stem)
    return stem.strip("_")[:40] or "recipe"


def of_file(
    path: Path, checkout: Path | None = None, world: int | None = None, folder: Path | None = None, place: Place = HERE
) -> Trial:
    """What is tried of the recipe in a file; the model's numbers are those of a HuggingFace folder, if one is given.

    Whether MTP layers are trained says the recipe. Raises UsageError, also if the recipe has other numbers.
    """
    recipe = read.read(path, None, checkout, world)
    if folder is not None:
        recipe = against.taken(recipe, folder)
    return of(recipe, place)


def of(recipe: Recipe, place: Place = HERE) -> Trial:
    """What is tried of a recipe in a place. Raises UsageError for one that nothing can stand for."""
    _check_types(recipe)
    small = stand_in(full.of(recipe))
    base, case = _base(small, recipe), place.case(small, recipe)
    told = _fitting(case, base, _with_their_kinds(tuple(_told(recipe, small, case))), lane(recipe))
    trial = Trial(recipe, small, _with(base, [one for one in told if one.state == TRIED]), told)
    return _with_clipping(_with_parts_that_are_here(trial))


def _check_types(recipe: Recipe) -> None:
    """Raises UsageError for a number of model or layout that its field does not take: the stand-in has one of its own."""
    here = declared.here()
    for setting in recipe.of(Source.GIVEN):
        field, value = here.get(setting.name), setting.value
        if field is None or value is None or fields.entry(setting.name).kind not in ("shape", "layout"):
            continue
        if setting.name == f"model.{FIELD}" or any(isinstance(part, Opaque) for part in parts(field.type)):
            continue
        try:
            declared.checked(field, value)
        except UsageError as error:
            raise UsageError(f"{recipe.source}: {error}") from None


def _with_parts_that_are_here(trial: Trial) -> Trial:
    """The same, without words of a list that Megatron-Core refuses without another setting, if that needs what is not here.

    A manifest, which is made without megatron-core, names the same case as the run does.
    """
    needs = {one.setting.name: one.why for one in trial.of(NEEDS)}
    for one in trial.tried:
        of_word, words = _GOES_WITH.get(one.setting.name, {}), one.setting.value
        if not isinstance(words, tuple) or not (lacking := [word for word in words if of_word.get(word) in needs]):
            continue
        other = of_word[lacking[0]]
        left = tuple(word for word in words if word not in lacking)
        why = f"{join(map(str, lacking))} goes with {other}=true, which needs {needs[other]}"
        trial = trial.changed([one.setting.name], {one.setting.name: left} if left else {}, why)
    return trial


def _with_clipping(trial: Trial) -> Trial:
    """The same with a limit that no norm reaches instead of none, without which megatron-core computes no norm to compare."""
    for one in trial.tried:
        if one.setting.name == "optimizer.clip_grad" and isinstance(one.setting.value, float) and one.setting.value <= 0:
            why = "without a limit Megatron-Core computes no norm of the gradients, which a step is compared by"
            return trial.changed([one.setting.name], {one.setting.name: _NO_LIMIT}, why)
    return trial


def lane(recipe: Recipe) -> str:
    """The precision of the case that shows what fp64 hides: the recipe's own, or bf16."""
    return recipe.precision if recipe.precision in _LOWER else "bf16"


def _base(small: StandIn, recipe: Recipe) -> Training:
    return small.training.with_settings({"model.calculate_per_token_loss": recipe.loss == "token"})


def _instead(setting: Setting, instead: Mapping[str, Value]) -> str:
    there = instead.get(setting.name)
    return "compared without it" if there is None else f"compared with {written(there)} instead"


def _with(base: Training, tried: Sequence[Told]) -> Training:
    return base.with_settings({one.setting.name: one.setting.value for one in tried})


def _with_their_kinds(told: tuple[Told, ...]) -> tuple[Told, ...]:
    """The same, without switches whose kind needs what is not here: of another kind they would be other switches.

    `cross_entropy_loss_fusion` with the kind `te` is Transformer Engine's cross entropy, and native is another one.
    """
    kinds = [(fields.entry(one.setting.name), one) for one in told if one.state == NEEDS]
    needs = {entry.with_field: one.why for entry, one in kinds if entry.with_field and entry.needs_of}
    return tuple(
        replace(one, state=NEEDS, why=needs[one.setting.name]) if one.state == TRIED and one.setting.name in needs else one
        for one in told
    )


def _fitting(case: Case, base: Training, told: tuple[Told, ...], lower: str) -> tuple[Told, ...]:
    """The same, without settings that a rule refuses together in the case, or in the `lower` precision that shows them."""

    def sentence(tried: Sequence[Told]) -> str | None:
        first = replace(case, training=_with(base, tried))
        hidden = first.precision == "fp64" and any(fields.entry(one.setting.name).lane for one in tried)
        cases = (first, *([replace(first, precision=lower)] if hidden else []))
        return next((said for case in cases for rule in RULES if (said := rule(case))), None)

    def says(said: str, tried: Sequence[Told]) -> bool:
        return sentence(tried) == said

    tried = [one for one in told if one.state == TRIED]
    refused: dict[str, Told] = {}
    while (said := sentence(tried)) and not sentence(()):
        part = smallest(tried, partial(says, said))
        if len(part) == len(tried):  # the sentence has the name of the case in it, and with it all settings
            part = smallest(tried, lambda parts: sentence(parts) is not None)
        refused |= {one.setting.name: Told(one.setting, REFUSED, f"in the stand-in: {sentence(part)}") for one in part}
        tried = [one for one in tried if one not in part]
    return tuple(refused.get(one.setting.name, one) for one in told)


def _told(recipe: Recipe, small: StandIn, case: Case) -> Iterator[Told]:
    here = declared.here()
    settings = (*recipe.settings, *_left_to_upstream(recipe, here))
    values = initial(here) | {setting.name: setting.value for setting in settings}
    for setting in settings:
        own = setting.name in _of_plumbline(recipe)
        told = _of_sparse(setting, values) or _one(setting, small, here, values, case, own=own)
        yield _read_by(recipe.implementation, told)
    if recipe.spec:
        layers = (
            "layers of the recipe's own; --implementation package.module:function compares a function that makes such layers"
        )
        yield Told(Setting(SPEC, recipe.spec, Origin(Source.GIVEN, "--spec")), REFUSED, layers)
    yield from (Told(one, REFUSED, beyond.WHY[one.name]) for one in recipe.beyond)


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
    return (*BASE, *(_SET_IN_LOWER if recipe.precision in _LOWER else ()), *beside)


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
    need = entry.need(setting.value)
    if need and (case.on_cpu or (need == "te" and not case.uses_te)):
        return Told(setting, NEEDS, fields.NEEDS[need])
    if name in _PACKAGES and case.on_cpu:
        return Told(setting, NEEDS, _PACKAGES[name])
    if setting.value is None and (name in NUMBERS or not _takes_none(here[name])):
        return Told(setting, SAME, "nothing is said")
    try:
        value = declared.checked(here[name], setting.value)
        made = replace(case, training=case.training.with_settings({name: value}))
    except UsageError as error:
        return Told(setting, REFUSED, str(error))
    # A capacity that drops no token of the stand-in's may drop tokens of the recipe's model.
    if sentence := wrong(made, name, value) or wrong(replace(made, model=small.full.model), name, value):
        return Told(setting, REFUSED, sentence.removeprefix(f"{name}={written(value)} cannot be compared: "))
    return Told(replace(setting, value=value), TRIED)


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

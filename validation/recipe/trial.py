"""What of a recipe is tried: its stand-in, the settings that both models can be compared with, and why others are left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as made
from functools import partial
from pathlib import Path

from validation.case import declared, fields, fp8, joined_latents
from validation.case.annotation import Opaque, Value, parts
from validation.case.case import ON_CPU, Case
from validation.case.errors import UsageError
from validation.case.pipeline_layout import FIELD
from validation.case.preflight import RULES, Rule
from validation.case.preset import Preset
from validation.case.schedule_rules import rates_can_be, schedule_can_run
from validation.case.settings import written
from validation.case.suggestions import join
from validation.case.training import Training
from validation.recipe import against, documents, eight_bits, full, read, unread
from validation.recipe.recipe import Recipe, Setting, Source
from validation.recipe.reduce import smallest
from validation.recipe.standin import StandIn, stand_in
from validation.recipe.told import ABSENT, CHANGED, LOWER, NEEDS, REFUSED, SPEC, TRIED, Told, initial
from validation.recipe.told import told as settings_told

_CLIPPING, _NO_LIMIT = "optimizer.clip_grad", 1e9
"""The limit of the gradients' norm, and one that no step reaches."""
_FP8, _JOINED = ("model.fp8", "model.fp8_recipe", "model.recompute_granularity"), f"model.{joined_latents.FIELD}"
"""What says whether products are in fp8, and that one of them makes both latents."""
_GOES_WITH: Mapping[str, Mapping[Value, str]] = {"model.recompute_modules": {"moe_act": "model.moe_grouped_gemm"}}
"""Words of a list, and the setting without which megatron-core refuses each (TransformerConfig.__post_init__)."""


@dataclass(frozen=True)
class Place:
    """Where and how the cases of a recipe run: what a command says of them beside the recipe.

    `precision` is that of the first case, None for the usual one, and `steps` are those that the command asks for. The sizes of
    the batch are the stand-in's if nobody says others. `given` are a user's own settings.
    """

    implementation: str = "local"
    transport: str = "gloo"
    precision: str | None = None
    steps: int = 0
    isolated: bool = False
    batch_size: int | None = None
    micro_batch_size: int | None = None
    seq_length: int | None = None
    given: Mapping[str, Value] = made(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        """Whether ranks compute on the CPU."""
        return self.transport in ON_CPU

    def case(self, small: StandIn, recipe: Recipe) -> Case:
        """The first case of a stand-in, without settings: on a CPU in fp64, on GPUs in the recipe's precision."""
        case = small.case(precision=self.precision or ("fp64" if self.on_cpu else recipe.precision))
        return replace(
            case,
            implementation=self.implementation,
            transport=self.transport,
            isolated=self.isolated,
            batch_size=self.batch_size or case.batch_size,
            micro_batch_size=self.micro_batch_size or case.micro_batch_size,
            seq_length=self.seq_length or case.seq_length,
            training=replace(case.training, steps=self.steps),
        )


HERE = Place()
"""What every machine has."""


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

    @property
    def tried_otherwise(self) -> tuple[Told, ...]:
        """The settings that are set with another value, because the stand-in is smaller."""
        return tuple(one for one in self.tried if one.scaled is not None)

    def changed(self, names: Collection[str], instead: Mapping[str, Value], why: str) -> Trial:
        """The nearest that runs: without these settings of the recipe, and with others instead. `why` is what ends it."""
        told = tuple(
            Told(one.setting, CHANGED, f"{why}; {_instead(one.setting, instead)}") if one.setting.name in names else one
            for one in self.told
        )
        found = replace(self, told=told, instead={**self.instead, **instead})
        base = _base(self.small, self.recipe, self.training.data_shape)
        return replace(found, training=_with(base, found.tried).with_settings(found.instead))

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
    size = full.of(recipe)
    try:
        small, shape, refused = documents.fitted(stand_in(size), recipe)
    except UsageError as error:
        raise UsageError(f"{recipe.source}: {error}") from None
    small = _in_eight_bits(small, recipe, shape, place)
    base, case = _base(small, recipe, shape), place.case(small, recipe)
    told = _fitting(case, base, place, _with_their_kinds(tuple(settings_told(recipe, small, case))), recipe)
    told = (*told, *documents.told(recipe, case, refused), *unread.told(recipe))
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
    """The same with a limit that no norm reaches instead of none."""
    why = "without a limit Megatron-Core computes no norm of the gradients, which a step is compared by"
    limit = _without_limit(trial.tried)
    return trial.changed(limit, limit, why) if limit else trial


def lane(recipe: Recipe) -> str:
    """The precision of the case that shows what fp64 hides: the recipe's own, or bf16."""
    return recipe.precision if recipe.precision in LOWER else "bf16"


def _base(small: StandIn, recipe: Recipe, shape: str) -> Training:
    base = small.training.with_settings({"model.calculate_per_token_loss": recipe.loss == "token"})
    return replace(base, data_shape=shape)


def _in_eight_bits(small: StandIn, recipe: Recipe, shape: str, place: Place) -> StandIn:
    """The stand-in with sizes for products in fp8, if the recipe has them and the place computes them."""
    if place.on_cpu or not {**recipe.values, **place.given}.get(_FP8[0]):
        return small
    values = {**initial(declared.here()), **recipe.values, **place.given}
    names = (*_FP8, *(() if small.model.q_lora_rank is None or _JOINED not in declared.here() else (_JOINED,)))
    case, said = place.case(small, recipe), {name: values.get(name) for name in names}
    training = replace(_base(small, recipe, shape).with_settings(said), steps=case.training.steps)
    case = replace(case, training=training)
    kept = _FP8[0] not in place.given and eight_bits.leaves_checks_undecided(case, eight_bits.unjudged(values))
    return small if kept else eight_bits.sized(small, case)


def _instead(setting: Setting, instead: Mapping[str, Value]) -> str:
    there = instead.get(setting.name)
    return "compared without it" if there is None else f"compared with {written(there)} instead"


def _with(base: Training, tried: Sequence[Told]) -> Training:
    return base.with_settings({one.setting.name: one.value for one in tried})


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


def in_lane(case: Case, recipe: Recipe) -> Case:
    """The case that shows what fp64 hides, of the first one: in the precision of `lane`, and without steps."""
    return replace(case, precision=lane(recipe), training=replace(case.training, steps=0))


def _fitting(case: Case, base: Training, place: Place, told: tuple[Told, ...], recipe: Recipe) -> tuple[Told, ...]:
    """The same, without settings that a rule refuses together in the case, or in the one that shows what fp64 hides."""

    def first(tried: Sequence[Told]) -> Case:
        training = _with(base, tried).with_settings({**_without_limit(tried), **place.given})
        return replace(case, training=replace(training, steps=case.training.steps))

    def ended(tried: Sequence[Told]) -> tuple[Rule | None, str]:
        one = first(tried)
        hidden = one.precision == "fp64" and any(fields.entry(told.setting.name).lane for told in tried)
        cases = (one, *([in_lane(one, recipe)] if hidden else []))
        return next(((rule, said) for case in cases for rule in rules if (said := rule(case))), (None, ""))

    def ends(by: Rule, tried: Sequence[Told]) -> bool:
        return ended(tried)[0] is by

    tried = [one for one in told if one.state == TRIED]
    # A recipe whose rates contradict each other trains nowhere: that is said of all of it (validation.run.recipe_given).
    rules = [rule for rule in RULES if rule is not schedule_can_run or not rates_can_be(first(tried))]
    unjudged = eight_bits.unjudged({**{one.setting.name: one.setting.value for one in tried}, **place.given})
    rules.insert(rules.index(fp8.products_fit), partial(eight_bits.leaves_checks_undecided, unjudged=unjudged))
    refused: dict[str, Told] = {}
    # What ends the case without any setting is said by the preflight, and of no setting.
    fine = (None, ended(())[0])
    while (rule := ended(tried)[0]) not in fine:
        # By the rule and not by its sentence: this may have the name of the case in it, and with it all settings.
        part = smallest(tried, partial(ends, rule))
        refused |= {one.setting.name: Told(one.setting, REFUSED, f"in the stand-in: {ended(part)[1]}") for one in part}
        tried = [one for one in tried if one not in part]
    return tuple(refused.get(one.setting.name, one) for one in told)


def _without_limit(tried: Sequence[Told]) -> dict[str, Value]:
    """A limit that no norm reaches, if one of these says none: megatron-core then computes no norm to compare."""
    limits = [one.setting.value for one in tried if one.setting.name == _CLIPPING]
    return {_CLIPPING: _NO_LIMIT} if any(isinstance(limit, float) and limit <= 0 for limit in limits) else {}

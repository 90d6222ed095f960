"""A recipe from Megatron-LM's arguments, whichever file they stood in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.suggestions import join
from validation.case.vocabulary import rows as padded_rows
from validation.recipe import arguments as reading
from validation.recipe import beyond, contradictions, geometry, idle, parser, started, trainers, upstream
from validation.recipe.arguments import Given
from validation.recipe.parser import Parser
from validation.recipe.recipe import Batch, Flag, Origin, Recipe, Setting, Source
from validation.recipe.trainers import Trainer
from validation.recipe.values import Arguments, frozen
from validation.recipe.words import Command

_TAKEN = frozenset(
    {
        "calculate_per_token_loss",
        "encoder_seq_length",
        "global_batch_size",
        "make_vocab_size_divisible_by",
        "micro_batch_size",
        "enable_dsa_indexer",
        "encoder_num_layers",
        "noop_layers",
        "num_layer_list",
        "num_layers_per_virtual_pipeline_stage",
        "num_virtual_stages_per_pipeline_rank",
        "padded_vocab_size",
        "position_embedding_type",
        "recompute_activations",
        "seq_length",
        "untie_embeddings_and_output_weights",
        "use_rotary_position_embeddings",
        "vocab_size",
        "max_position_embeddings",
        "grad_reduce_in_bf16",
        "enable_cuda_graph",
        "external_cuda_graph",
        "first_k_dense_replace",
        "n_shared_experts",
        "spec",
    }
)
"""Arguments that no field has and that a recipe still says in words of its own."""
_OTHER_PROGRAMS = re.compile(r"pretrain_(mamba|hybrid|bert|t5|retro|ict|vlm|vision_\w+)")
"""Programs of Megatron-LM that train another model, whatever the flags are."""
_IMPLEMENTATIONS = {"transformer_engine": "te", "local": "local"}


def recipe(
    command: Command,
    source: str,
    kind: str,
    release: str,
    checkout: Path | None = None,
    world: int | None = None,
) -> Recipe:
    """The recipe that a command line of Megatron-LM trains.

    `release` says whose parser and defaults count; with a checkout its own parser reads the words. `world` is the number of
    ranks where somebody says it; otherwise it is what the launcher gets. Raises UsageError.
    """
    trainer = trainers.of(command)
    words = trainers.words_of(trainer, command)
    own = parser.checkout(checkout, [word.text for word in words if not trainer.by_name]) if checkout else None
    known = own.parser if own else parser.release(release)
    known = known.with_options(trainer.options, by_name=trainer.by_name) if trainer.by_name or not own else known
    of_fork = bool(trainer.options) and not trainer.by_name
    given, unknown = reading.read(known, words, by_name=trainer.by_name, of_fork=of_fork)
    if own and not trainer.by_name:
        given = tuple(_as_read(one, own.values) for one in given)
    ranks = world if world is not None else started.ranks(command)
    found = Arguments(known, given, trainer)
    refused = () if trainer.by_name else tuple(contradictions.of(found))
    upstream.validate(found, ranks)
    made = _recipe(known, found, given, unknown, command, source, kind, ranks, trainer)
    shares = trainer.by_name or found["decrease_batch_size_if_needed"]
    uneven = "" if shares else contradictions.of_batch(made, "--micro-batch-size", "--global-batch-size")
    return replace(made, unlike=(*made.unlike, *refused), uneven=uneven)


def _recipe(
    known: Parser,
    found: Arguments,
    given: Sequence[Given],
    unknown: tuple[Flag, ...],
    command: Command,
    source: str,
    kind: str,
    ranks: int | None,
    trainer: Trainer,
) -> Recipe:
    settings = tuple(sorted(_chosen(known, found, trainer), key=lambda setting: setting.name))
    values = _model_values(known, settings)
    shape = geometry.of(values, whole=not trainer.by_name)
    numbers = geometry.given(shape.numbers, _said(settings)) if trainer.by_name else dict(shape.numbers)
    try:
        layout = geometry.layout(values, ranks, source)
    except UsageError:
        if ranks and (other := next(geometry.other(_said(settings) if trainer.by_name else values), "")):
            raise UsageError(f"{source}: {other}") from None  # whether ranks hold the layout of another model is not the point
        raise
    still, beside = _sorted_out(known, given, settings)
    idle_there = tuple(replace(flag, reason=trainer.name) for flag in unknown if trainer.is_idle(flag.text))
    return Recipe(
        source=source,
        kind=kind,
        defaults=_defaults(known, trainer),
        settings=settings,
        model=numbers | _vocabulary(found) | ({} if trainer.by_name else _tied(found)),
        layout=layout,
        world=ranks,
        batch=_batch(found),
        precision="bf16" if found["bf16"] else "fp16" if found["fp16"] else "fp32",
        loss="token" if found["calculate_per_token_loss"] else "mean",
        loss_from=trainer.loss_from,
        own_tokens=trainer.own_tokens,
        implementation=_IMPLEMENTATIONS.get(str(found["transformer_impl"]), str(found["transformer_impl"])),
        spec=":".join(map(str, spec)) if isinstance(spec := found["spec"], tuple) else "",
        program=command.program,
        environment=command.variables,
        beside=beside,
        idle=(*still, *idle_there),
        unknown=tuple(flag for flag in unknown if not trainer.is_idle(flag.text)),
        beyond=(*beyond.arguments(given), *beyond.variables(command.variables), *_padding(found)),
        doubts=tuple(_doubts(known, given, found, ranks, trainer, source)),
        unlike=(*_of_program(command.program), *_other(found, values, settings, trainer), *shape.unlike),
    )


def _other(found: Arguments, values: Mapping[str, Value], settings: Sequence[Setting], trainer: Trainer) -> Iterator[str]:
    """What the recipe's model has and no DeepSeek-V3; of a program that has its model elsewhere, what the flags say."""
    yield from geometry.other(_said(settings) if trainer.by_name else values)
    if not trainer.by_name:
        yield from geometry.other_layers({dest: found[dest] for dest in geometry.OTHER_LAYERS if found.given(dest)})
        yield from geometry.positions(found["position_embedding_type"])
        yield from geometry.unsplit(values)


def _of_program(program: str) -> Iterator[str]:
    name = re.split(r"[/ .]", program.removesuffix(".py"))[-1]
    if _OTHER_PROGRAMS.fullmatch(name):
        yield f"{name} trains another model than DeepSeek-V3; give the flags of pretrain_gpt.py"


def _as_read(one: Given, values: Mapping[str, object]) -> Given:
    """The same argument with the value that the checkout's own parser reads."""
    return Given(one.option, frozen(values.get(one.option.dest, one.value)), one.text, one.place)


def _defaults(known: Parser, trainer: Trainer) -> str:
    own = f"Megatron-LM's parser, {known.name}"
    if trainer.by_name:
        return f"{trainer.name}, else of the dataclasses of megatron-core {known.name}"
    return f"{trainer.name}, else of {own}" if trainer.name else own


def _chosen(known: Parser, found: Arguments, trainer: Trainer) -> Iterator[Setting]:
    """What is given or follows, and the defaults that are not the dataclass's own."""
    for setting in upstream.settings(known, found):
        section, name = setting.name.split(".", 1)
        is_default = setting.origin.source is Source.DEFAULT
        if is_default and trainer.by_name and setting.origin.place != trainer.source:
            continue
        if not is_default or setting.value != frozen(known.fields[section][name]):
            yield setting


def _model_values(known: Parser, settings: Sequence[Setting]) -> dict[str, Value]:
    """Every field of the model: as the recipe has it, or else as the dataclass does."""
    defaults = {name: frozen(value) for name, value in known.fields["model"].items()}
    return defaults | _said(settings)


def _said(settings: Sequence[Setting]) -> dict[str, Value]:
    """The fields of the model that a recipe has, without the section's name."""
    return {setting.name.partition(".")[2]: setting.value for setting in settings if setting.name.startswith("model.")}


def _vocabulary(found: Arguments) -> dict[str, Value]:
    """The rows of the embedding, padded as Megatron-LM pads them; nothing where only a tokenizer knows."""
    if found["padded_vocab_size"] is not None:
        return {"vocab_size": found["padded_vocab_size"]}
    if not (vocabulary := _tokens(found)):
        return {}
    multiple = found.number("make_vocab_size_divisible_by")
    return {"vocab_size": padded_rows(vocabulary, multiple, found.number("tensor_model_parallel_size"))}


def _tokens(found: Arguments) -> int:
    """How many tokens there are by a flag, 0 if none says it. NullTokenizer has an end of documents beside them, until 0.17.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/tokenizers/text/libraries/null_tokenizer.py
    """
    said = found.number("vocab_size")
    null = str(found["tokenizer_type"]).startswith("Null")
    return said + 1 if said and null and parser.is_before(found.release, "0.18") else said


def _padding(found: Arguments) -> Iterator[Setting]:
    """The rows that stand for no token, where a flag says how many tokens there are."""
    if tokens := _tokens(found):
        origin = Origin(
            Source.FOLLOWS, f"follows from {found.origin('vocab_size').text}", "vocab_size_with_padding of Megatron-LM"
        )
        yield from beyond.padding(tokens, _vocabulary(found).get("vocab_size"), origin)


def _tied(found: Arguments) -> dict[str, Value]:
    numbers: dict[str, Value] = {"tie_word_embeddings": not found["untie_embeddings_and_output_weights"]}
    return numbers | ({"max_position_embeddings": found["max_position_embeddings"]} if found["max_position_embeddings"] else {})


def _batch(found: Arguments) -> Batch:
    return Batch(
        found.number("micro_batch_size") or None, found.number("global_batch_size") or None, found.number("seq_length") or None
    )


def _sorted_out(
    known: Parser, given: Sequence[Given], settings: Sequence[Setting]
) -> tuple[tuple[Flag, ...], tuple[Flag, ...]]:
    """The flags that change no number, and those from which no field of the four configurations follows."""
    still, beside = list[Flag](), list[Flag]()
    said = {setting.origin.text.removeprefix("follows from ") for setting in settings}
    for one in given:
        dest = one.option.dest
        if dest in known.field_names | _TAKEN | {*beyond.WHY, *beyond.DATA} or (dest in upstream.RENAMED and one.text in said):
            continue
        if idle.is_idle(one.option):
            still.append(Flag(one.text, one.place, one.option.group))
        else:
            beside.append(Flag(one.text, one.place, one.option.group))
    return tuple(still), tuple(beside)


def _doubts(
    known: Parser, given: Sequence[Given], found: Arguments, ranks: int | None, trainer: Trainer, source: str
) -> Iterator[str]:
    if trainer.doubt:
        yield trainer.doubt
    if ranks is None:
        yield "how many ranks train is not said, so the data-parallel degree is open"
    if not trainer.by_name:
        yield from _model_doubts(found)
    if own := [one.text for one in given if one.option.group == parser.FORKS]:
        yield f"Megatron-LM has no flag {join(own, 'or')}: what a flag of a fork is named after is set"
    for one in given:
        if one.option.dest in ("yaml_cfg", "use_checkpoint_args", "use_mp_args_from_checkpoint_args"):
            yield f"{one.text} brings settings that are not read"
    if not any(one.option.dest in known.field_names for one in given):
        raise UsageError(f"{source}: none of the flags sets a field of Megatron-Core; give those that training starts with")


def _model_doubts(found: Arguments) -> Iterator[str]:
    if not (found["vocab_size"] or found["padded_vocab_size"]):
        yield "the vocabulary is the tokenizer's, which is not read"

"""Megatron-Bridge's configuration as YAML: what ConfigContainer writes, or a file with overrides.

Sections of upstream's fields are read by the fields' names. `mixed_precision` and `comm_overlap` overwrite fields of the same
name, as their `setup` does (src/megatron/bridge/training/mixed_precision.py and comm_overlap.py of Megatron-Bridge).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import yaml

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.strangers import quoted, shown
from validation.case.vocabulary import rows as padded_rows
from validation.recipe import beyond, contradictions, geometry, parser, upstream
from validation.recipe.arguments import Given
from validation.recipe.parser import Option, Parser
from validation.recipe.recipe import Batch, Flag, Origin, Recipe, Setting, Source
from validation.recipe.values import Arguments, frozen
from validation.recipe.yaml_file import Entry, entries, scalar, text_of

SECTIONS = ("model", "ddp", "optimizer", "scheduler", "train", "mixed_precision", "comm_overlap")
"""Sections of which one tells that a file is Megatron-Bridge's."""
_OVERWRITING = ("mixed_precision", "comm_overlap")
_IDLE = frozenset(
    {
        "checkpoint",
        "dataset",
        "dist",
        "env_vars",
        "ft",
        "inprocess_restart",
        "logger",
        "nvrx_straggler",
        "profiling",
        "rerun_state_machine",
        "rng",
        "straggler",
        "tensor_inspect",
        "tokenizer",
        "validation",
    }
)
"""Sections that change no number of a step."""
_PROVIDERS = frozenset(
    {
        "fp16_lm_cross_entropy",
        "generation_config",
        "hf_model_id",
        "make_vocab_size_divisible_by",
        "parallel_output",
        "position_embedding_type",
        "rotary_percent",
        "scatter_embedding_sequence_parallel",
        "seq_len_interpolation_factor",
        "seq_length",
        "share_embeddings_and_output_weights",
        "should_pad_vocab",
        "tp_only_amax_red",
        "transformer_layer_spec",
        "use_transformer_engine_full_layer_spec",
        "vocab_size",
    }
)
"""Numbers of the model that Megatron-Bridge's provider holds beside upstream's configuration."""
_CHANGING = ("rampup_batch_size", "decrease_batch_size_if_needed", "skip_train")
"""Keys of `train` that change a step, and that no setting says; the others are lengths, or idle."""
_NAMED: Mapping[str, Mapping[str, Value]] = {
    "bf16_mixed": {
        "bf16": True,
        "params_dtype": "bfloat16",
        "pipeline_dtype": "bfloat16",
        "grad_reduce_in_fp32": True,
    },
    "fp16_mixed": {
        "fp16": True,
        "params_dtype": "float16",
        "pipeline_dtype": "float16",
        "grad_reduce_in_fp32": False,
    },
}
"""The two plain recipes of mixed precision that a name may stand for."""
_LETTERS: Mapping[Value, str] = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
_NAMES = ("comm_overlap", "mixed_precision", "peft")
"""Sections that a name may stand for."""
_NOTHING = ("", "null", "~")
_PARTS = 10_000
"""Values of one key."""
_DEEPEST = 50


def recipe(top: yaml.MappingNode, source: str, release: str, world: int | None) -> Recipe:
    """The recipe in a file of Megatron-Bridge. Raises UsageError."""
    known = parser.release(release)
    sections = {entry.key: entry for entry in entries(top, source)}
    found: dict[str, Setting] = {}
    unknown, beside = list[Flag](), list[Flag]()
    for section in ("model", "ddp", "optimizer"):
        for entry in _keys(sections, section, source):
            if entry.key in known.fields[section]:
                found[f"{section}.{entry.key}"] = _setting(f"{section}.{entry.key}", entry)
            elif section != "model" or entry.key not in _PROVIDERS:
                unknown.append(_unknown(known, section, entry))
    _overwrite(known, sections, source, found)
    arguments = _arguments(known, sections, source)
    found |= _schedule(known, arguments, unknown, _keys(sections, "scheduler", source))
    beside += _without_setting(known, found, [("scheduler", one) for one in _keys(sections, "scheduler", source)])
    beside += [
        Flag(f"train.{entry.key}", entry.place, "no setting follows from it")
        for entry in _keys(sections, "train", source)
        if entry.key in _CHANGING and value_of(entry.node, entry.place)
    ]
    for name, entry in sections.items():
        if name not in SECTIONS and name not in _IDLE and name not in beyond.WHY:
            beside.append(Flag(name, entry.place, "section"))
    made = _recipe(known, source, found, sections, arguments, world, (tuple(beside), tuple(unknown)))
    train = {entry.key: value_of(entry.node, entry.place) for entry in _keys(sections, "train", source)}
    if train.get("decrease_batch_size_if_needed"):
        return made
    return replace(made, uneven=contradictions.of_batch(made, "train.micro_batch_size", "train.global_batch_size"))


def _recipe(
    known: Parser,
    source: str,
    found: Mapping[str, Setting],
    sections: Mapping[str, Entry],
    arguments: Arguments,
    world: int | None,
    rest: tuple[tuple[Flag, ...], tuple[Flag, ...]],
) -> Recipe:
    if not found:
        raise UsageError(f"{source}: none of its keys is a field of Megatron-Core; give what ConfigContainer.to_yaml writes")
    said = {name.partition(".")[2]: setting.value for name, setting in found.items() if name.startswith("model.")}
    values = {name: frozen(value) for name, value in known.fields["model"].items()} | said
    provider = {entry.key: value_of(entry.node, entry.place) for entry in _keys(sections, "model", source)}
    given = {name for name in said if name in ("num_layers", "hidden_size", "num_moe_experts")}
    shape = geometry.of(values)
    numbers = dict(shape.numbers) if len(given) == 3 else geometry.given(shape.numbers, said)
    doubts = [] if len(given) == 3 else [_OVERRIDES.format(source)]
    doubts += [] if world else ["how many ranks train is not said, so the data-parallel degree is open"]
    sequence = provider.get("seq_length")
    return Recipe(
        source=source,
        kind="Megatron-Bridge's YAML",
        defaults=f"the dataclasses of megatron-core {known.name}",
        settings=tuple(found[name] for name in sorted(found)),
        model=numbers | _vocabulary(provider, values),
        layout=geometry.layout(values, world, source),
        world=world,
        batch=Batch(
            arguments.number("micro_batch_size") or None,
            arguments.number("global_batch_size") or None,
            sequence if isinstance(sequence, int) else None,
        ),
        precision="bf16" if values.get("bf16") else "fp16" if values.get("fp16") else "fp32",
        loss="token" if values.get("calculate_per_token_loss") else "mean",
        loss_from="losses.py of Megatron-Bridge",
        own_tokens=True,
        implementation="local" if values.get("transformer_impl") == "local" else "te",
        idle=tuple(Flag(name, entry.place, "section") for name, entry in sections.items() if name in _IDLE),
        beside=rest[0],
        unknown=rest[1],
        spec=_spec(provider, sections, source),
        beyond=(*_beyond(sections, source), *_padding(provider, values)),
        doubts=tuple(doubts),
        unlike=_unlike(shape.unlike, provider, said) if len(given) == 3 else (),
    )


def _spec(provider: Mapping[str, Value], sections: Mapping[str, Entry], source: str) -> str:
    """The function that makes layers, if it is neither Megatron-Core's nor Megatron-Bridge's own."""
    node = next((entry.node for entry in _keys(sections, "model", source) if entry.key == "transformer_layer_spec"), None)
    named = {entry.key: text_of(entry.node) for entry in entries(node, source)} if node is not None else {}
    name = named.get("_target_") or named.get("_name_") or str(provider.get("transformer_layer_spec") or "")
    return "" if name.startswith("megatron.") or "." not in name else name


def _beyond(sections: Mapping[str, Entry], source: str) -> Iterator[Setting]:
    """What the sequences hold, if that changes numbers: the rest of the section about data is idle."""
    data = {entry.key: entry for entry in _keys(sections, "dataset", source)}
    on = {key: value_of(entry.node, entry.place) is True for key, entry in data.items()}
    for key, entry in data.items():
        if on[key] and key in (*beyond.WHY, *beyond.DATA):
            yield Setting(key, True, Origin(Source.GIVEN, f"dataset.{key}", entry.place))
    if on.get(beyond.MASK) and on.get(beyond.SKIPPED, True):
        yield Setting(beyond.SKIPPED, True, Origin(Source.DEFAULT, f"{beyond.SKIPPED} is on", "GPTDatasetConfig"))
    for entry in _keys(sections, "model", source):
        if entry.key in _PROVIDERS and entry.key in beyond.WHY and value_of(entry.node, entry.place) is True:
            yield Setting(entry.key, True, Origin(Source.GIVEN, f"model.{entry.key}", entry.place))
    mixed = sections.get("mixed_precision")
    if mixed is not None and text_of(mixed.node) not in _NOTHING and _name_of(mixed) not in _NAMED:
        yield Setting("mixed_precision", text_of(mixed.node), Origin(Source.GIVEN, "mixed_precision", mixed.place))
    adapters = sections.get("peft")
    if adapters is not None and (any(_keys(sections, "peft", source)) or text_of(adapters.node) not in _NOTHING):
        yield Setting("peft", True, Origin(Source.GIVEN, "peft", adapters.place))


def _unlike(shape: tuple[str, ...], provider: Mapping[str, Value], said: Mapping[str, Value]) -> tuple[str, ...]:
    """What the model has and no DeepSeek-V3: of what the file says, for it may leave to a recipe what it does not."""
    kind = provider.get("position_embedding_type")
    return (*geometry.other_layers({**said, **provider}), *geometry.other(said), *shape, *geometry.positions(kind))


_OVERRIDES = (
    "{} does not give the model's layers, width and experts: it holds overrides of a recipe; write the whole configuration "
    "with ConfigContainer.to_yaml to have them compared"
)


def _keys(sections: Mapping[str, Entry], section: str, source: str) -> Iterator[Entry]:
    """The keys of a section that are fields; those with underscores around say how to make the object."""
    if section in sections:
        _has_keys(sections[section], source)
        yield from (
            entry for entry in entries(sections[section].node, source) if not entry.key.startswith("_") and entry.key != "null"
        )


def _has_keys(entry: Entry, source: str) -> None:
    """Raises UsageError for a section that holds a list or a word, of which nothing would be read."""
    word = isinstance(entry.node, yaml.ScalarNode) and (entry.key in _NAMES or text_of(entry.node) in _NOTHING)
    if not word and not isinstance(entry.node, yaml.MappingNode):
        raise UsageError(f"{entry.place}: {entry.key} holds no keys; write `field: value` lines below it, or leave it out")


def _setting(name: str, entry: Entry) -> Setting:
    value = value_of(entry.node, entry.place)
    if name == "model.pipeline_model_parallel_layout" and isinstance(value, tuple):
        value = _stages(value)
    return Setting(name, value, Origin(Source.GIVEN, name, entry.place))


def _stages(stages: tuple[Value, ...]) -> Value:
    """Lists of layers as the text that Megatron-LM's flag takes; as they are if a layer is of another kind."""
    words = [stage if isinstance(stage, tuple) else (stage,) for stage in stages]
    if not all(word in _LETTERS for stage in words for word in stage):
        return stages
    return "|".join("".join(_LETTERS[str(word)] for word in stage) for stage in words)


def _unknown(known: Parser, section: str, entry: Entry) -> Flag:
    near = difflib.get_close_matches(entry.key, known.fields[section], 1, 0.8)
    said = f"the nearest field is {near[0]}" if near else "no field of this configuration"
    return Flag(f"{section}.{entry.key}", entry.place, said)


def _name_of(entry: Entry) -> str:
    return text_of(entry.node).replace("-", "_")


def _overwrite(known: Parser, sections: Mapping[str, Entry], source: str, found: dict[str, Setting]) -> None:
    """Set the fields that mixed_precision and comm_overlap set, wherever a configuration has one of that name."""
    for section in _OVERWRITING:
        entry = sections.get(section)
        if entry is not None and isinstance(entry.node, yaml.ScalarNode) and text_of(entry.node) not in _NOTHING:
            values = {key: (value, entry.place) for key, value in _NAMED.get(_name_of(entry), {}).items()}
        else:
            values = {one.key: (value_of(one.node, one.place), one.place) for one in _keys(sections, section, source)}
        for key, (value, place) in values.items():
            if section == "comm_overlap" and value is None:
                continue
            for where in ("model", "ddp", "optimizer"):
                if key in known.fields[where]:
                    full = f"{where}.{key}"
                    found[full] = Setting(full, value, Origin(Source.FOLLOWS, f"follows from {section}.{key}", place))


def _arguments(known: Parser, sections: Mapping[str, Entry], source: str) -> Arguments:
    """The keys of train, scheduler and optimizer by the arguments of the same names, of which the schedule is made."""
    given = [
        Given(known.by_dest[entry.key], _typed(known.by_dest[entry.key], entry), f"{section}.{entry.key}", entry.place)
        for section in ("optimizer", "scheduler", "train")
        for entry in _keys(sections, section, source)
        if entry.key in known.by_dest
    ]
    return Arguments(known, [one for one in given if one.value is not None])


def _schedule(known: Parser, arguments: Arguments, unknown: list[Flag], keys: Iterator[Entry]) -> dict[str, Setting]:
    for entry in keys:
        if entry.key not in known.by_dest and entry.key not in known.fields["scheduler"]:
            unknown.append(_unknown(known, "scheduler", entry))
    settings = (one for one in upstream.settings(known, arguments) if one.name.startswith("scheduler."))
    return {one.name: one for one in settings if one.origin.source is not Source.DEFAULT}


def _typed(option: Option, entry: Entry) -> Value:
    """The value of a key. Raises UsageError for text where the argument of that name is a number."""
    value = value_of(entry.node, entry.place)
    if option.kind in ("int", "float") and isinstance(value, str):
        raise UsageError(f"{entry.place}: {shown(entry.key)} takes a number, not {quoted(value)}; write it without quotes")
    return value


def _without_setting(known: Parser, found: Mapping[str, Setting], keys: Sequence[tuple[str, Entry]]) -> Iterator[Flag]:
    """Keys with the name of an argument from which no setting follows."""
    said = {setting.origin.text for setting in found.values()}
    for section, entry in keys:
        name = f"{section}.{entry.key}"
        if entry.key in known.by_dest and name not in said and value_of(entry.node, entry.place) is not None:
            yield Flag(name, entry.place, "no setting follows from it")


def _vocabulary(provider: Mapping[str, Value], values: Mapping[str, Value]) -> dict[str, Value]:
    numbers: dict[str, Value] = {}
    vocabulary, tied = provider.get("vocab_size"), provider.get("share_embeddings_and_output_weights")
    if isinstance(vocabulary, int) and not isinstance(vocabulary, bool):
        multiple, tp = provider.get("make_vocab_size_divisible_by", 128), values.get("tensor_model_parallel_size")
        pads = provider.get("should_pad_vocab", False) and isinstance(multiple, int) and isinstance(tp, int)
        numbers["vocab_size"] = padded_rows(vocabulary, int(str(multiple)), int(str(tp))) if pads else vocabulary
    return numbers | ({"tie_word_embeddings": tied} if isinstance(tied, bool) else {})


def _padding(provider: Mapping[str, Value], values: Mapping[str, Value]) -> Iterator[Setting]:
    origin = Origin(Source.FOLLOWS, "follows from model.should_pad_vocab")
    yield from beyond.padding(provider.get("vocab_size"), _vocabulary(provider, values).get("vocab_size"), origin)


def value_of(node: yaml.Node, place: str) -> Value:
    """A value: enumerations, data types and functions by their last name, lists as tuples. Raises UsageError."""
    try:
        return _value(node, [_PARTS], 0)
    except ValueError as error:
        raise UsageError(f"{place}: {shown(str(error))}; write a plain value") from None


def _value(node: yaml.Node, left: list[int], depth: int) -> Value:
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"more than {_PARTS} values")
    if depth > _DEEPEST:
        raise ValueError("it is nested too deep")
    if isinstance(node, yaml.ScalarNode):
        return scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return tuple(_value(item, left, depth + 1) for item in node.value)
    parts = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    for name in ("_name_", "_target_"):
        if name in parts:
            return text_of(parts[name]).rsplit(".", 1)[-1]
    return tuple((str(key.value), _value(value, left, depth + 1)) for key, value in node.value)

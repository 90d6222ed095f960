"""What the options of a run mean: the cases, and how to run them. No torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.cache import limit
from validation.case import arrangement, inference, tokens, tree, vocabulary
from validation.case import life as lives
from validation.case import settings as settings_
from validation.case.case import ON_CPU, Case
from validation.case.data import ARE_PACKED, WITH_PADDING
from validation.case.empty import refuse_empty
from validation.case.errors import UsageError
from validation.case.folder import model_from_folder
from validation.case.home import home
from validation.case.layout import Layout
from validation.case.megatron_folder import megatron_folder
from validation.case.model import ASKED_FOR, MEGATRON_WORDS, Model
from validation.case.plural import many
from validation.case.preset import TINY, Preset, preset
from validation.case.sizes import check_sizes
from validation.case.strangers import shown
from validation.case.training import OPTIONS, Training
from validation.run import settings_given
from validation.run.command_line import DEGREES, MAX_RANKS, TEXT, add_grouped
from validation.run.nodes import place as places
from validation.run.nodes.place import ONE, Place

if TYPE_CHECKING:
    from validation.recipe.trial import Trial
    from validation.run.ahead import Question
    from validation.run.nodes.leading import Nodes

_WORDS = (
    "preset",
    "hf_model_path",
    "layers",
    "candidate_checkpoint",
    "data",
    "tokenizer",
    "layouts",
    "precision",
    "implementation",
    "transport",
    "megatron_path",
    "plugin",
    "recipe",
    "results",
    "manifest",
    "cache_limit",
    "rdzv_endpoint",
)
"""Options that take a text of any kind."""
_MOST_STEPS, _LONGEST = 1000, 10_000_000
_RATE, _SMALL_RATE = "optimizer.lr", 1e-3


@dataclass(frozen=True)
class Settings:
    """What a command asks for: the cases, and how to run them.

    `timeout` is in seconds, for each case and each reference; `jobs` is how many cases run at the same time, None for what is
    good here (validation.run.jobs); `share_gpu` is the most ranks of a case that may share one GPU, None for any number.
    `plugin` is what the ranks run with, as it was given (validation.run.plugin). `cache_limit` is how many bytes the cache in
    `home` may hold, None for any number. `show` is ALL lines, the VERDICT alone, or what fits the run; `format` TEXT or JSON.
    `only` are names of the checks to make, `last_failed` says that those are to be made which failed before. `trial` is what a
    recipe says, if the case is its stand-in. `place` says which node of the run this machine is.
    """

    cases: tuple[Case, ...]
    results: Path
    home: Path
    timeout: float
    max_ranks: int
    jobs: int | None
    debug: bool
    fresh: bool
    command: str
    self_test: bool = False
    megatron_path: Path | None = None
    plugin: str = ""
    manifest: Path | None = None
    share_gpu: int | None = None
    cache_limit: int | None = None
    show: str = ""
    format: str = TEXT
    only: tuple[str, ...] = ()
    last_failed: bool = False
    trial: Trial | None = field(default=None, hash=False)  # pytest hashes its plugins
    place: Place = ONE


@dataclass(frozen=True)
class Given:
    """Settings that were worked out before pytest started, handed to it as a plugin, with the user's `words` for pytest.

    `failed` has for each testsuite the checks that failed before (validation.checks.selection), None if nobody asked.
    `nodes` is where the ranks run, None for this machine. `question` is one that is not answered yet, None if there is none.
    """

    settings: Settings
    words: tuple[str, ...] = ()
    failed: Mapping[str, Collection[str] | None] | None = field(default=None, hash=False)  # pytest hashes its plugins
    nodes: Nodes | None = field(default=None, hash=False)
    question: Question | None = field(default=None, hash=False)


def parsed(words: Sequence[str], place: Path | None = None) -> Settings:
    """What these words mean behind `python -m validation run`. Raises UsageError, and SystemExit as argparse does."""
    return settings(_parser().parse_args(words), "", place)


@cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_grouped(parser)
    return parser


def settings(options: Any, command: str, place: Path | None = None) -> Settings:
    """What parsed `options` ask for, with the cache in `place` or where it is by default. Raises UsageError."""
    place = place or home()
    refuse_empty(options, _WORDS)
    _check_limits(options)
    _check_pairs(options)
    transport, tried = _transport(options), None
    if options.recipe:
        from validation.run import recipe_given  # needs PyYAML, and the doctor runs without

        tried, cases = recipe_given.given(options, transport)
    else:
        cases = _cases(options, transport)
    return Settings(
        cases=cases,
        trial=tried,
        results=Path(options.results),
        home=place,
        timeout=options.case_timeout,
        max_ranks=_max_ranks(options.max_ranks, cases if tried else ()),
        jobs=options.jobs,
        debug=options.pieces,
        fresh=options.fresh,
        command=command,
        self_test=_self_test(options),
        megatron_path=Path(options.megatron_path) if options.megatron_path else None,
        plugin=options.plugin or "",
        manifest=Path(options.manifest) if options.manifest else None,
        share_gpu=options.share_gpu,
        cache_limit=limit.limit(options.cache_limit, place),
        show=getattr(options, "show", ""),
        format=getattr(options, "format", TEXT),
        only=_only(options),
        last_failed=getattr(options, "last_failed", False),
        place=places.place(options, os.environ),
    )


def _max_ranks(most: int, stand_ins: tuple[Case, ...]) -> int:
    """As given; by default as many as the stand-in of a recipe has."""
    return max([most, *(case.layout.ranks for case in stand_ins)]) if most == MAX_RANKS else most


def _cases(options: Any, transport: str) -> tuple[Case, ...]:
    base, folder = _base(options)
    model = base.model.with_numbers(_numbers(options.numbers))
    check_sizes(model)
    precision = options.precision or ("fp64" if transport in ON_CPU else "fp32")
    cases = tuple(
        Case(
            preset=base.name,
            model=vocabulary.padded(replace(model, num_nextn_predict_layers=mtp), layout, training),
            layout=layout,
            precision=precision,
            implementation=options.implementation,
            transport=transport,
            seed=options.seed,
            batch_size=_given(options.batch_size, inference.usual_batch_size(base.batch_size, layout, training)),
            micro_batch_size=_given(options.micro_batch_size, _micro_batch_size(options, base, layout, training)),
            seq_length=_given(options.seq_length, inference.usual_seq_length(base.seq_length, training)),
            hf_model_path=folder,
            layers=layers_of(options.layers),
            candidate_checkpoint=_candidate_checkpoint(options),
            training=_with_steps(options, base, precision, training),
            isolated=options.isolated,
            tokenizer=options.tokenizer,
        )
        for layout, training, mtp in _arrangements(options, model)
    )
    return tuple(tokens.of_file(case, Path(options.data)) for case in cases) if options.data else cases


def _only(options: Any) -> tuple[str, ...]:
    """The names, none where nothing is said. Raises UsageError for one that is empty, which would name every check."""
    found = tuple(getattr(options, "only", ()))
    if any(not name.strip() for name in found):
        raise UsageError("--only is empty: give it a name that the output shows, such as 'Attention Output', or leave it out")
    return found


def _transport(options: Any) -> str:
    """The one that is named, gloo where none is; where ranks may share GPUs, staged in place of nccl."""
    if options.share_gpu is None:
        return options.transport or "gloo"
    if options.transport in ON_CPU:
        raise UsageError(f"--share-gpu is for GPUs and --transport {options.transport} runs on the CPU; give one of them")
    return "nccl" if options.share_gpu == 1 and options.transport != "staged" else "staged"


def _self_test(options: Any) -> bool:
    """As asked for; where nothing is said, in CI, whose systems set the variable CI."""
    if options.self_test and options.no_self_test:
        raise UsageError("--self-test and --no-self-test contradict each other; give one of them")
    in_ci = os.environ.get("CI", "").lower() in ("true", "1")
    return bool(options.self_test or (in_ci and not options.no_self_test))


def _check_limits(options: Any) -> None:
    if options.steps is not None and not 0 <= options.steps <= _MOST_STEPS:
        raise UsageError(f"--steps {options.steps}: give 0 or more, up to {_MOST_STEPS}")
    for name, value in (("jobs", options.jobs), ("max-ranks", options.max_ranks), ("share-gpu", options.share_gpu)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: give 1 or more")
    if not 0 < options.case_timeout <= _LONGEST:
        raise UsageError(f"--timeout {options.case_timeout}: give a number of seconds greater than 0, up to {_LONGEST}")


def _check_pairs(options: Any) -> None:
    """Raises UsageError for an option of another one, without which nothing reads it."""
    if options.world_size is not None and not options.recipe:
        raise UsageError("--world-size says how many ranks train a recipe; give --recipe FILE, or leave it out")
    if options.tokenizer and not (options.data or options.recipe):
        raise UsageError("--tokenizer reads the text of --data; give --data FILE, or leave it out")


def _given(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _steps(options: Any, base: Preset, precision: str, stream: bool, training: Training) -> int:
    """Those given, or 2 where they are cheap and exact; isolated modules, inference and a model layer by layer have none."""
    if life := training.life:
        if options.steps not in (None, lives.steps(life)):
            taken = lives.steps(life)
            raise UsageError(f"+{life} takes {many(taken, 'step')} and --steps asks for {options.steps}; leave --steps out")
        return lives.steps(life)
    alone = stream or options.isolated or training.inference != OPTIONS["inference"][0]
    cheap = base.name == "tiny" and precision == "fp64" and not alone
    return _given(options.steps, 2 if cheap else 0)


def _with_steps(options: Any, base: Preset, precision: str, training: Training) -> Training:
    """The training with its steps, which are small in bf16 if nobody has set the rate."""
    stream = training.stream or base.stream
    found = replace(training, steps=_steps(options, base, precision, stream, training), stream=stream)
    return of_small_steps(found, precision, given=any(_RATE in text for text in (*options.config, options.layouts or "")))


def of_small_steps(training: Training, precision: str, *, given: bool) -> Training:
    """The training with small steps if it has several in bf16, unless the rate is `given`.

    AdamW takes the sign of small gradients, and bf16 turns some of them over: after large steps the models differ so much that
    rounding decides the next gradients.
    """
    small = precision == "bf16" and training.steps > 1 and not given
    return training.with_settings({_RATE: _SMALL_RATE}) if small else training


def _micro_batch_size(options: Any, base: Preset, layout: Layout, training: Training) -> int:
    """The preset's, or 1: where a rank would have too few micro-batches, or its sequences are no multiple of the preset's.

    With fewer than two, gradients that are not added up are invisible; with fewer than four, a wrong interleaved schedule.
    Padded sequences are balanced one by one, and packed ones are a micro-batch each (validation.case.data).
    """
    balanced = training.balancing == "seq_aux_loss" and training.data_shape in WITH_PADDING
    if balanced or training.data_shape in ARE_PACKED:
        return 1
    per_rank = _given(options.batch_size, inference.usual_batch_size(base.batch_size, layout, training)) // layout.data_parallel
    enough = per_rank // base.micro_batch_size >= (4 if layout.vpp > 1 else 2)
    return base.micro_batch_size if enough and per_rank % base.micro_batch_size == 0 else 1


def _candidate_checkpoint(options: Any) -> str | None:
    if options.candidate_checkpoint is None:
        return None
    if megatron_folder(Path(options.candidate_checkpoint)) is None:
        raise UsageError(
            f"--candidate-checkpoint {options.candidate_checkpoint}: no Megatron checkpoint there; `{tree.VALIDATION} "
            "convert` makes one of a HuggingFace folder"
        )
    return str(options.candidate_checkpoint)


def _base(options: Any) -> tuple[Preset, str | None]:
    if options.hf_model_path is None:
        if options.layers:
            raise UsageError("--layers takes layers of a checkpoint; give its folder with --hf-model-path")
        return preset(options.preset or "tiny"), None
    if options.preset is not None:
        raise UsageError("--preset and --hf-model-path both name the model; give one of them")
    if options.numbers:
        raise UsageError("--set changes a preset; a checkpoint's numbers are its own (take fewer layers with --layers)")
    folder = Path(options.hf_model_path)
    model = model_from_folder(folder, layers_of(options.layers))
    return Preset(folder.resolve().name, model, batch_size=2, micro_batch_size=1, seq_length=64), str(folder)


def layers_of(text: str | None) -> tuple[int, ...]:
    """`0,1,3` as numbers, none where nothing is said. Raises UsageError."""
    try:
        found = tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        found = ()
    if text is not None and not found:
        raise UsageError(f"--layers {shown(text)}: give layer numbers joined by commas, such as 0,1,3")
    return found


def _numbers(given: list[str]) -> Mapping[str, str]:
    pairs = [text.partition("=") for text in given]
    wrong = [word for word, equals, _ in pairs if not equals]
    if wrong:
        raise UsageError(f"--set {wrong[0]}: give NAME=VALUE, such as num_layers=4")
    return {word: value for word, _, value in pairs}


def _arrangements(options: Any, model: Model) -> list[tuple[Layout, Training, int]]:
    """Each layout with the options of its step, and the number of its model's MTP layers.

    The options are those given for all, and the words that follow the layout's name.
    """
    said = {name: value for name in OPTIONS if (value := getattr(options, name)) is not None}
    shared = Training(**said, stream=options.stream)
    shared = shared.with_settings(settings_given.given(options.config))
    degrees = {degree: getattr(options, degree) for degree in DEGREES}
    given = {degree: value for degree, value in degrees.items() if value is not None}
    if given and options.layouts:
        raise UsageError("--layouts and single degrees (--tp, --pp, ...) both name the layout; give one of them")
    wrong = next((degree for degree, value in given.items() if value < 1), None)
    if wrong:
        raise UsageError(f"--{wrong} {given[wrong]}: a degree is 1 or more")
    if given:
        return [(Layout().with_degrees(**given), settings_given.typed(shared), model.num_nextn_predict_layers)]
    names = [name.strip() for name in settings_.split(options.layouts or "single") if name.strip()]
    if not names:
        raise UsageError(f"--layouts {options.layouts}: names no layout; give names joined by commas, such as single,tp2")
    there = model.num_nextn_predict_layers
    asked = any(MEGATRON_WORDS.get(word, word) == ASKED_FOR for word in _numbers(options.numbers))
    read = [arrangement.parse(name, shared, there if asked else None) for name in names]
    found = [(layout, settings_given.typed(training), there if mtp is None else mtp) for layout, training, mtp in read]
    for _, _, mtp in found:
        check_sizes(replace(TINY.model, num_nextn_predict_layers=mtp), "--layouts: ")
    twice = next((name for name, one in zip(names, found, strict=True) if found.count(one) > 1), None)
    if twice:
        raise UsageError(f"--layouts names {twice} twice; give each layout once")
    return found

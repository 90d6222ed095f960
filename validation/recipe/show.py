"""What was read of a recipe, for a person: `recipe show FILE`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from validation.case.annotation import Value
from validation.case.strangers import one_line
from validation.recipe.recipe import Flag, Recipe, Setting, Source

_HEADS = {
    Source.GIVEN: "settings that are given",
    Source.FOLLOWS: "settings that follow from them",
    Source.DEFAULT: "defaults that differ from the dataclasses of megatron-core",
}


def text(recipe: Recipe) -> str:
    """The recipe as lines."""
    return "\n".join(map(one_line, _lines(recipe))) + "\n"


def _lines(recipe: Recipe) -> Iterator[str]:
    yield f"{recipe.source}: {recipe.kind}; defaults of {recipe.defaults}"
    yield ""
    yield from _pairs("what it trains", _about(recipe))
    yield from _pairs("model", [(name, written(value)) for name, value in recipe.model.items()])
    for source, head in _HEADS.items():
        yield from _pairs(head, [_setting(setting) for setting in recipe.of(source)])
    yield from _pairs("no field, and changes numbers", [_setting(setting) for setting in recipe.beyond])
    if recipe.environment:
        yield from _pairs("environment", list(recipe.environment))
    yield from _flags("known to the parser, and no field of the four configurations", recipe.beside)
    yield from _flags("unknown: not read", recipe.unknown)
    yield from _flags("idle: they change no number", recipe.idle)
    if recipe.doubts:
        yield "what could not be told"
        yield from (f"  {doubt}" for doubt in recipe.doubts)


def _about(recipe: Recipe) -> Iterator[tuple[str, str]]:
    layout, batch = recipe.layout, recipe.batch
    degrees = {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp, "cp": layout.cp, "ep": layout.ep, "etp": layout.expert_tp}
    dp = "open" if layout.dp is None else str(layout.dp)
    yield "layout", " ".join(f"{name}{degree}" for name, degree in degrees.items()) + f" dp {dp}"
    yield "ranks", "not said" if recipe.world is None else str(recipe.world)
    yield "sequence parallel", "yes" if layout.uses_sequence_parallel else "no"
    yield "precision", recipe.precision
    yield "implementation", recipe.implementation
    if recipe.spec:
        yield "layers", f"of {recipe.spec}, which is not read"
    yield "loss", _loss(recipe)
    yield "micro-batch", "not said" if batch.micro is None else str(batch.micro)
    yield "global batch", "not said" if batch.overall is None else str(batch.overall)
    yield "sequence length", "not said" if batch.sequence is None else str(batch.sequence)
    if recipe.program:
        yield "program", recipe.program


def _loss(recipe: Recipe) -> str:
    said = f"{recipe.loss}, {recipe.loss_from}" if recipe.loss_from else recipe.loss
    own = recipe.own_tokens and recipe.loss == "mean"
    return f"{said}: a context-parallel rank divides by the number of its own tokens" if own else said


def _setting(setting: Setting) -> tuple[str, str]:
    return f"{setting.name} = {written(setting.value)}", str(setting.origin)


def written(value: Value) -> str:
    """A value as `--config` takes it: a word for a text, and lists in brackets."""
    if isinstance(value, tuple):
        return _runs(value)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _runs(values: Sequence[Value]) -> str:
    """A list; a long one as products of what repeats: `[0]*3+[1]*58`."""
    runs: list[tuple[Value, int]] = []
    for value in values:
        runs = [*runs[:-1], (value, runs[-1][1] + 1)] if runs and runs[-1][0] == value else [*runs, (value, 1)]
    if len(runs) < len(values) and len(values) > 8:
        return "+".join(f"[{written(value)}]*{times}" for value, times in runs)
    return f"[{', '.join(map(written, values))}]"


def _pairs(head: str, rows: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> Iterator[str]:
    found = list(rows)
    if not found:
        return
    width = min(max(len(name) for name, _ in found), 60)
    yield f"{head} ({len(found)})" if "settings" in head or "defaults" in head else head
    yield from (f"  {name:<{width}}  {value}".rstrip() for name, value in found)
    yield ""


def _flags(head: str, flags: Sequence[Flag]) -> Iterator[str]:
    yield from _pairs(head + f" ({len(flags)})", [(flag.text, _said(flag)) for flag in flags])


def _said(flag: Flag) -> str:
    return f"{flag.place}: {flag.reason}" if flag.reason else flag.place

"""Flags and keys of a recipe that set nothing in any case: what no parser knows, and what of Megatron-LM's is no field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from validation.case.strangers import shown
from validation.recipe import beyond
from validation.recipe.recipe import Flag, Origin, Recipe, Setting, Source
from validation.recipe.told import IDLE, NEEDS, REFUSED, UNREAD, Told
from validation.recipe.words import SECRET

_ADAPTERS = beyond.WHY["peft"]
_UNKNOWN: Mapping[str, str] = {
    "schedules_method": "another pipeline schedule, and the stand-in has Megatron-Core's",
    **dict.fromkeys(("lora", "target_modules"), _ADAPTERS),
}
"""What the names of unknown flags begin with that are known to change what is computed."""
_NO_ROTARY = "multi-latent attention does not read it"
_BESIDE: Mapping[str, tuple[str, str]] = {
    "enable_experimental": (
        NEEDS,
        "a case with moe_permute_fusion's kernels for fp8 padding or flex; nothing else reads it",
    ),
    **dict.fromkeys(("use_rope_scaling", "rope_scaling_factor", "rotary_seq_len_interpolation_factor"), (UNREAD, _NO_ROTARY)),
}
"""Arguments of Megatron-LM that are no field and are read by nothing in a case on a CPU (token_dispatcher.py, gpt_model.py)."""


def told(recipe: Recipe) -> Iterator[Told]:
    """Each of them once, of several the last; that adapters train is one thing, however many flags say it."""
    found: dict[str, Told] = {}
    for flag in recipe.unknown:
        found[_name(flag)] = Told(_setting(flag), *_unknown(flag), text=shown(flag.text))
    for flag in recipe.beside:
        state, why = _BESIDE.get(_plain(flag), (REFUSED, "Megatron-LM knows it, and no case has it"))
        found[_name(flag)] = Told(_setting(flag), state, why, text=shown(flag.text))
    adapters = any(one.name in beyond.TUNERS for one in recipe.beyond)
    for one in found.values():
        again, adapters = adapters and one.why == _ADAPTERS, adapters or one.why == _ADAPTERS
        yield replace(one, state=IDLE, why="that adapters train is said once") if again else one


def _unknown(flag: Flag) -> tuple[str, str]:
    name = _plain(flag)
    if SECRET.fullmatch(flag.text):
        return IDLE, "a key"
    if known := next((why for begin, why in _UNKNOWN.items() if name.startswith(begin)), ""):
        return REFUSED, known
    nobody = "no parser of Megatron-LM knows it" if flag.text.startswith("-") else "Megatron-Core has no such field"
    return REFUSED, f"{nobody}; {flag.reason}" if flag.reason else nobody


def _name(flag: Flag) -> str:
    """The flag without its value; a key is one word."""
    return flag.text.replace("=", " ", 1).partition(" ")[0]


def _value(flag: Flag) -> str:
    return flag.text.replace("=", " ", 1).partition(" ")[2]


def _plain(flag: Flag) -> str:
    return _name(flag).lstrip("-").replace("-", "_")


def _setting(flag: Flag) -> Setting:
    return Setting(_name(flag), _value(flag), Origin(Source.GIVEN, flag.text, flag.place))

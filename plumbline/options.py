"""The keywords of `check`, and the words of the command line that they mean."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypedDict

from plumbline.errors import UsageError

Words = str | Iterable[str]


class Options(TypedDict, total=False):
    """Those of `plumbline run`, under the same names. None means the same as leaving it out."""

    preset: str | None
    hf_model_path: str | os.PathLike[str] | None
    layers: str | Iterable[int] | None
    set: Mapping[str, Any] | None
    candidate_checkpoint: str | os.PathLike[str] | None
    seed: int | None
    recipe: str | os.PathLike[str] | None
    world_size: int | None
    config: Mapping[str, Any] | None
    tp: int | None
    pp: int | None
    vpp: int | None
    ep: int | None
    etp: int | None
    cp: int | None
    dp: int | None
    batch_size: int | None
    micro_batch_size: int | None
    seq_length: int | None
    steps: int | None
    optimizer: str | None
    loss: str | None
    balancing: str | None
    recompute: str | None
    dispatcher: str | None
    experts: str | None
    fp8: str | None
    mtp_loss: str | None
    data_shape: str | None
    padding_logits: str | None
    inference: str | None
    data: str | os.PathLike[str] | None
    tokenizer: str | os.PathLike[str] | None
    stream: bool | None
    isolated: bool | None
    precision: str | None
    transport: str | None
    share_gpu: int | None
    max_ranks: int | None
    nnodes: int | None
    node_rank: int | None
    rdzv_endpoint: str | None
    cluster: str | None
    jobs: int | None
    timeout: float | None
    cache_limit: str | None
    fresh: bool | None
    implementation: str | Callable[..., Any] | None
    megatron_path: str | os.PathLike[str] | None
    plugin: str | os.PathLike[str] | None
    self_test: bool | None
    only: Words | None
    last_failed: bool | None
    results: str | os.PathLike[str] | None
    debug: bool | None


def words(options: Mapping[str, Any]) -> list[str]:
    """The options on a command line. Raises UsageError for a keyword that is none, or a value of another kind."""
    for name in options:
        if name not in ("layouts", *Options.__annotations__):
            raise UsageError(_unknown(name))
    return [word for name, value in options.items() if value is not None for word in _of(name, value)]


def _unknown(name: str) -> str:
    known = sorted({"layouts", "progress", *Options.__annotations__})
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"{name}: no option; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")


def _of(name: str, value: Any) -> Iterator[str]:
    """Values stand behind `=`, so that none is taken for an option."""
    option = f"--{name.replace('_', '-')}"
    if name in _FLAGS:
        yield from _flag(name, option, value)
    elif name == "set":
        yield from (f"{option}={key}={number}" for key, number in _mapping(name, value).items())
    elif name == "config":
        yield from (f"{option}={key}={_setting(name, one)}" for key, one in _mapping(name, value).items())
    elif name == "only":
        yield from (f"{option}={_text(name, one)}" for one in _several(value))
    elif name in ("layouts", "layers"):
        yield f"{option}={','.join(_text(name, one) for one in _several(value))}"
    else:
        yield f"{option}={_function(value) if callable(value) else _text(name, value)}"


_FLAGS = ("stream", "isolated", "fresh", "self_test", "last_failed", "debug")


def _flag(name: str, option: str, value: Any) -> Iterator[str]:
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}; give True or False")
    if value:
        yield option
    elif name == "self_test":
        yield "--no-self-test"  # elsewhere False is what it is without


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        such = _MAPPINGS[name]
        raise UsageError(f"{name} is {value!r}; give a dictionary, such as {such}")
    return value


_MAPPINGS = {"set": "{'num_layers': 2}", "config": "{'ddp.overlap_grad_reduce': True}"}


def _setting(name: str, value: Any) -> str:
    """A value of a field of megatron-core's configuration, as --config reads it: JSON is YAML."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} has {value!r}; give True, False, None, a number, a text or a list") from None


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else [value]


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, os.PathLike)):
        raise UsageError(f"{name} is {value!r}; give a text or a number")
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _function(value: Any) -> str:
    """`package.module:function` of a function, which the ranks import."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if module in (None, "__main__") or not name.isidentifier():
        raise UsageError(
            f"{name or value!r} cannot be imported by the ranks, which are other processes; put it into a file, such as "
            "my_spec.py, at its top level, and give 'my_spec:layers'"
        )
    return f"{module}:{name}"

"""A run that ends before it starts leaves no results of the run before in its place.

The options say which results those are. If some options are wrong, the others still say it, as far as they can. The standard
library is enough for that, the self-test's file aside: a missing package is one of the reasons why a run does not start.
"""

from __future__ import annotations

import argparse
import glob
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from validation.case.case import DEFAULT_SEED, IMPLEMENTATIONS, PRECISIONS, TRANSPORTS, Case
from validation.case.errors import PlumblineError, UsageError
from validation.case.numbers import SEEDS
from validation.case.preset import PRESETS
from validation.case.training import OPTIONS
from validation.checks.before import ASIDE
from validation.checks.facts import case_file
from validation.run.command_line import DEGREES, add_options
from validation.run.options import Settings, settings

_MODEL = ("preset", "hf_model_path", "layers", "numbers")
_NAMING = (*_MODEL, "precision", "implementation", "transport", "share_gpu", "seed", "isolated", "stream")
_OTHERS = ("megatron_path", "self_test", "no_self_test", "results", *DEGREES, *OPTIONS)
"""With those of _NAMING, the options that the names of testsuites come from, beside the layouts."""
_ANY = "*"


def files(wanted: Settings) -> list[Path]:
    """The files that a command writes; without the self-test's if the command's checkout of megatron-core is not there."""
    names = [case.name for case in wanted.cases]
    with suppress(PlumblineError, ImportError):
        names += _self_test(wanted)
    return [wanted.results / case_file(name) for name in names]


def _self_test(wanted: Settings) -> list[str]:
    from validation.checks.self_test import SelfTest
    from validation.faults.plan import plan_of

    plan = plan_of(wanted)
    return [SelfTest(plan, wanted.cases[0]).name] if plan.plants else []


def ended(words: Sequence[str]) -> None:
    """Take what lies in the place of the results of a command that has not started; `words` follow `python -m validation run`.

    An option whose value is none, such as a layer spec that cannot be imported, may have been meant for any value.
    """
    wanted = _meant(words)
    if wanted is not None:
        patterns = [glob.escape(path.name).replace(glob.escape(_ANY), _ANY) for path in files(wanted)]
        ASIDE.take(path for pattern in patterns for path in sorted(wanted.results.glob(pattern)))


def _meant(words: Sequence[str]) -> Settings | None:
    """The settings, with the cases that can be told; None if there are none, or if the command writes no results."""
    parser = _Lenient(add_help=False)
    add_options(_leniently(parser.add_argument))
    try:
        given, _ = parser.parse_known_args(words)
    except UsageError:
        return None
    if given.manifest is not None or not given.results:
        return None
    default = vars(parser.parse_args([]))
    named = {name: getattr(given, name) for name in (*_NAMING, *_OTHERS) if getattr(given, name) != ""}
    layouts = [name.strip() or None for name in (given.layouts or "").split(",")]
    found = [one for name in layouts for one in _understood(argparse.Namespace(**{**default, **named, "layouts": name}))]
    cases = [_any(case) for one in found for case in one.cases]
    return replace(found[0], cases=tuple(cases)) if found else None


def _understood(options: argparse.Namespace) -> Iterator[Settings]:
    """One layout's settings; those of tiny under the model's name if the model's numbers cannot be had."""
    try:
        yield _without_cache(options)
    except PlumblineError:
        yield from _with_other_numbers(options)


def _without_cache(options: argparse.Namespace) -> Settings:
    """The settings whatever is said of the cache, which may be why the run does not start. No result lies there."""
    return settings(argparse.Namespace(**{**vars(options), "cache_limit": "none"}), "", place=Path())


def _with_other_numbers(options: argparse.Namespace) -> Iterator[Settings]:
    folder, named = options.hf_model_path, options.preset or "tiny"
    name = Path(folder).resolve().name if folder else named if named in PRESETS else _ANY
    plain: dict[str, Any] = {**dict.fromkeys((*_MODEL, "share_gpu")), "numbers": [], "no_self_test": False}
    degrees = dict.fromkeys(DEGREES) if options.layouts else {}
    try:
        found = _without_cache(argparse.Namespace(**{**vars(options), **plain, **degrees}))
    except PlumblineError:
        return
    layers = {0, 1} if folder else {case.model.num_nextn_predict_layers for case in found.cases}
    models = [(case, replace(case.model, num_nextn_predict_layers=count)) for case in found.cases for count in sorted(layers)]
    yield replace(found, cases=tuple(replace(case, preset=name, model=model) for case, model in models))


def _any(case: Case) -> Case:
    """The case with a value that is none put as any."""
    return replace(
        case,
        precision=case.precision if case.precision in PRECISIONS else _ANY,
        implementation=case.implementation if case.implementation in IMPLEMENTATIONS else _ANY,
        transport=case.transport if case.transport in TRANSPORTS else _ANY,
        seed=case.seed if -SEEDS <= case.seed < SEEDS else DEFAULT_SEED,
    )


class _Lenient(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """The command's own parser has said it already."""
        raise UsageError(message)


def _leniently(add: Callable[..., Any]) -> Callable[..., Any]:
    """`add` for options that take any text; what is no value of an option counts as not given."""

    def lenient(*names: str, **about: Any) -> None:
        choices, kind = about.pop("choices", None), about.get("type", str)

        def read(text: str) -> Any:
            try:
                value = kind(text)
            except (ValueError, argparse.ArgumentTypeError):
                return about["default"]
            return value if choices is None or value in choices else about["default"]

        add(*names, **({**about, "type": read} if about.get("action") in (None, "append") else about))

    return lenient

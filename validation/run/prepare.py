"""Everything that can be said before anything is started, and the start of what takes longest. No torch, for a preset."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from validation import checkout, cuda, loopback
from validation.cache import forget
from validation.case import disk, life, packages, preflight, sparse, writing
from validation.case.case import ON_CPU, TE, Case
from validation.case.errors import EnvironmentMissing, UsageError
from validation.machine import ABSENT, available_memory, gpus, version, visible_gpus
from validation.reference import store
from validation.run import ahead, early, jobs, launch, limits, nearest
from validation.run import plugin as plugins
from validation.run.options import Settings
from validation.run.references import REFERENCES


def prepare(settings: Settings, also: Iterable[Case] = ()) -> Settings:
    """Everything that can be said before anything is started. Raises UsageError or EnvironmentMissing.

    Returns the settings, without those of a recipe that megatron-core refuses together. `also` are further cases, smaller than
    those of the settings, whose references will be needed.
    """
    settings, question = begin(settings, also)
    question.check()
    return settings


def begin(settings: Settings, also: Iterable[Case] = ()) -> tuple[Settings, ahead.Question]:
    """The same, but for what only megatron-core can say: that is asked, and must be checked before a case is started."""
    writing.check_folder(settings.results, "--results")
    _find_folders(settings.cases)
    checkout.choose(settings.megatron_path)
    _find_packages(settings.cases[0].transport)
    _find_packages_of_settings(settings.cases)
    check_cases(settings)
    _refuse_what_bugs_end(settings.cases)
    _refuse_what_releases_lack(settings.cases)
    _find_code(settings)
    early.prepare_launch(settings)
    missing = _missing_references(settings, (*settings.cases, *also))
    forget.keep_within(settings.home, settings.cache_limit)
    _find_means(settings, missing)
    _warm_up(references=bool(missing))
    if settings.cases[0].hf_model_path is not None:
        _verify(settings)
    settings = nearest.accepted(settings, lambda case: ahead.refusal(case, settings.timeout))
    _begin(settings, missing)
    return settings, ahead.Question(settings.cases, settings.timeout, otherwise=REFERENCES.close)


def _begin(settings: Settings, missing: Sequence[Case]) -> None:
    """Have the first case's reference computed from now on: whoever imports for the ranks takes as long.

    Not where checks are selected, of which a part of the reference may be enough.
    """
    first = settings.cases[0]
    if not (settings.only or settings.last_failed) and store.key(first) in map(store.key, missing):
        REFERENCES.begin(first, settings.home, settings.timeout)


def _warm_up(references: bool) -> None:
    """Start what imports for seconds: the fork server of the ranks, and the process that computes `references`."""
    if references and early.warm_up_with_ranks():
        return
    launch.warm_up()
    if references:
        REFERENCES.warm_up()


def _find_folders(cases: Iterable[Case]) -> None:
    """Where ranks write by a setting. Raises UsageError for a folder in which they cannot."""
    named = {pair for case in cases for pair in case.training.settings if pair[0].endswith(".config_logger_dir") and pair[1]}
    for name, folder in sorted(named):
        writing.check_folder(Path(str(folder)), name)


def check_cases(settings: Settings) -> None:
    """What makes a case impossible, on every node alike. Raises UsageError or EnvironmentMissing."""
    memory, cards = available_memory(), visible_gpus()
    fullest = min(cards, key=lambda card: card.free, default=None)
    nodes = settings.place.count
    for case in settings.cases:
        _refuse_what_nodes_cannot_share(case, nodes)
        # Nodes are taken to be like this one: each has its share of the ranks.
        found = len(cards) or gpus()
        preflight.check(
            case,
            max_ranks=settings.max_ranks * nodes,
            gpus=found and found * nodes,
            memory=memory and memory * nodes,
            card=fullest.free if fullest else None,
            taken=fullest.total - fullest.free if fullest else 0,
            share=settings.share_gpu,
        )


def prepare_to_follow(settings: Settings) -> None:
    """The same for a node that another one leads: that looks at the cases, and computes references.

    Raises UsageError or EnvironmentMissing.
    """
    checkout.choose(settings.megatron_path)
    _find_packages(settings.cases[0].transport)
    _find_code(settings)
    early.prepare_launch(settings)
    limits.allow_open_files()
    writing.check_cache(settings.home)
    forget.keep_within(settings.home, settings.cache_limit)
    launch.warm_up()
    # The agent of elastic needs it: now, while the head gets ready, it keeps nobody waiting.
    importlib.import_module("torch.distributed.launcher.api")


def _refuse_what_nodes_cannot_share(case: Case, nodes: int) -> None:
    if sentence := life.on_nodes(case.training.life, nodes):
        raise UsageError(f"{case.arrangement}: {sentence}")


def _find_code(settings: Settings) -> None:
    """What the ranks run, and what they run it on."""
    if not settings.cases[0].on_cpu:
        cuda.check(settings.cases[0].transport)
        for fp8 in {case.training.fp8 for case in settings.cases}:
            cuda.check_fp8(fp8)
    _find_implementation(settings.cases[0].implementation)
    plugins.check(settings.plugin)


def _refuse_what_bugs_end(cases: Iterable[Case]) -> None:
    """Raises UsageError for a case whose ranks an upstream bug ends. Its table needs packages, which are there by now."""
    from validation.run.known import refusal

    for case in cases:
        if sentence := refusal(case):
            raise UsageError(sentence)


def _refuse_what_releases_lack(cases: Iterable[Case]) -> None:
    """Raises EnvironmentMissing for sparse attention with a megatron-core that computes it otherwise, or not at all."""
    if any(case.model.sparse for case in cases) and (sentence := sparse.too_old(version("megatron-core"))):
        raise EnvironmentMissing(sentence)


def _missing_references(settings: Settings, cases: Iterable[Case]) -> list[Case]:
    """A case for each reference that is to be computed. What is found is in use from here on, and not forgotten."""
    wanted = {store.key(case): case for case in cases}
    find = store.find_any if settings.only or settings.last_failed else store.find
    stored = {name: find(case, settings.home) is not None for name, case in wanted.items()}
    return [case for name, case in wanted.items() if settings.fresh or not stored[name]]


def _find_means(settings: Settings, missing: Sequence[Case]) -> None:
    """What the operating system must allow: connections, open files, room on its disks. Raises EnvironmentMissing."""
    if reason := loopback.problem():
        raise EnvironmentMissing(loopback.sentence(reason))
    at_once = settings.jobs or jobs.at_once(settings.cases)
    limits.allow_open_files()
    limits.check(settings.cases, at_once)
    if missing:
        writing.check_cache(settings.home)
    if said := disk.shortage(_needs(settings, missing, at_once)):
        raise EnvironmentMissing(said)


def _needs(settings: Settings, missing: Sequence[Case], at_once: int) -> list[disk.Need]:
    """Room for the references that are to be computed, for what ranks leave while they run, and for the reports."""
    needs = [disk.references(missing, settings.home)] if missing else []
    return [*needs, disk.runs(settings.cases, at_once), disk.reports(settings.cases, settings.results)]


def _find_packages(transport: str) -> None:
    wanted = "cpu" if transport in ON_CPU else "cuda"
    if missing := [name for name in packages.NEEDED if version(name) == ABSENT]:
        raise EnvironmentMissing(packages.sentence(missing, wanted, wanted))


def _find_packages_of_settings(cases: Iterable[Case]) -> None:
    for case in cases:
        for said in packages.of_settings(case.training.settings):
            raise EnvironmentMissing(f"{case.arrangement}: {said}")


def _find_implementation(name: str) -> None:
    """A user's own spec must at least be where it is said to be, and Transformer Engine; the rest is seen in the ranks."""
    if name in TE:
        cuda.find_transformer_engine()
    module, colon, _ = name.partition(":")
    if not colon:
        return
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UsageError(f"--implementation {name}: no module {module} here; give package.module:function of one on PYTHONPATH")


def _verify(settings: Settings) -> None:
    """The whole checkpoint, positions and values included, unless a reference was made from it: nothing has changed since."""
    from validation.reference.as_read import check
    from validation.reference.checkpoint import Checkpoint, verify

    # With an MTP layer and without it are two models of one folder.
    for case in {case.model: case for case in settings.cases}.values():
        if store.find(case, settings.home) is not None:
            continue
        check(case.model, Path(str(case.hf_model_path)))
        with Checkpoint.open(str(case.hf_model_path), case.model, case.layers) as checkpoint:
            verify(checkpoint)

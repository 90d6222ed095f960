"""`python -m validation convert`: from one folder to another."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.releases import NEWEST
from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.tensors import Megatron, mtp_block_of
from validation.case.errors import InfrastructureError, Interrupted, UsageError
from validation.case.megatron_folder import megatron_folder
from validation.case.plural import many
from validation.convert import work
from validation.convert.formats import open_source
from validation.convert.padded import with_padding
from validation.convert.parts import Target
from validation.convert.progress import readable
from validation.convert.source import DTYPES, Source
from validation.convert.to_huggingface import ToHuggingFace
from validation.convert.to_legacy import ToLegacy
from validation.convert.to_torch_dist import ToTorchDist
from validation.convert.unfinished import Unfinished, check_places, check_room, disk_errors, read_manifest
from validation.machine import ABSENT, version
from validation.run.options import layers_of

_VERSION = 1
"""Of what is written; a conversion that an older one began is begun again."""


@dataclass(frozen=True)
class Request:
    """What a command asks for."""

    origin: Path
    config: Path | None
    save: Path
    layers: tuple[int, ...]
    options: Namespace

    @classmethod
    def of(cls, options: Namespace) -> Request:
        """The request of parsed options. Raises UsageError."""
        if options.jobs < 1:
            raise UsageError(f"--jobs {options.jobs}: give 1 or more")
        if options.to_hf and not options.load:
            raise UsageError("--to-hf needs --load, the folder to convert")
        if not options.to_hf and (options.load or not options.hf_model_path):
            raise UsageError("give --hf-model-path with the folder to convert, or --to-hf with --load for the way back")
        origin = Path(options.load if options.to_hf else options.hf_model_path)
        config = Path(options.hf_model_path) if options.to_hf and options.hf_model_path else None
        save = Path(options.save)
        check_places(save, origin)
        return cls(origin, config, save, layers_of(options.layers), options)


def run(options: Namespace) -> int:
    """Convert as the options say; returns the exit code. Raises PlumblineError."""
    request = Request.of(options)
    start = time.monotonic()
    with open_source(request.origin, request.config, request.layers, not options.no_mtp) as opened:
        source = opened if options.to_hf else with_padding(opened, options.layout)
        target = _target(request, source)
        source.close()  # so that no process that is forked shares a position in a file
        plan = _plan(request, source, target)
        with (
            disk_errors(request.save.with_name(request.save.name + ".unfinished")),
            Unfinished(request.save, plan) as unfinished,
        ):
            done = sum(part.bytes for part in target.parts if unfinished.has(part.name))
            check_room(unfinished.folder, sum(part.bytes for part in target.parts) - done)
            known, largest = _written(target, unfinished, options.jobs)
            target.finish(unfinished.folder, {name: found["known"] for name, found in known.items()})
            filled = _found(unfinished.folder, target)
            unfinished.publish({**plan, "parts": known, "input": source.inventory().line})
        _report(source, target, filled, time.monotonic() - start, done, largest)
    return 0


def _written(target: Target, unfinished: Unfinished, jobs: int) -> Any:
    try:
        return work.write(target, unfinished, jobs)
    except KeyboardInterrupt:
        raise Interrupted(f"{unfinished.folder}: interrupted; the same command goes on from here") from None


def _target(request: Request, source: Source) -> Target:
    options = request.options
    dtype = DTYPES[options.dtype] if options.dtype else None
    beside = request.config or request.origin
    if options.to_hf:
        manifest = read_manifest(request.origin) or {}
        copies = bool(manifest.get("copies", source.copies)) and bool(source.described.model.mtp_layers)
        return ToHuggingFace(source, dtype, copies, beside)
    model = source.described.model
    if megatron_folder(request.origin) is not None:
        raise UsageError(f"--hf-model-path {request.origin} is a Megatron checkpoint; --to-hf --load converts it back")
    megatron = Megatron(model, source.parameters, options.implementation, mtp_block_of(_release(options)))
    make = ToLegacy if options.format == "legacy" else ToTorchDist
    return make(source, megatron, Arrangement.parse(options.layout, model), dtype, beside)


def _release(options: Any) -> str:
    """The release whose names a rank's file gets: the one that is asked for, the installed one, or the newest."""
    installed = version("megatron-core")
    found: str = options.megatron_core or (NEWEST.megatron_core if installed == ABSENT else installed)
    return found


def _plan(request: Request, source: Source, target: Target) -> dict[str, Any]:
    """What the output depends on: where it changed, what is done already is of no use."""
    options = request.options
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in source.files()]
    return {
        "version": _VERSION,
        "format": target.format,
        "from": {"format": source.format, "files": files},
        "layout": options.layout,
        "implementation": options.implementation,
        **({"megatron_core": _release(options)} if target.format == "legacy" else {}),
        "dtype": options.dtype,
        "layers": list(request.layers),
        "copies": source.copies,
        "config": dict(source.described.config),
        "tensors": {part.name: part.tensors for part in target.parts},
    }


def _found(folder: Path, target: Target) -> int:
    """How many tensors the output has, by its own reader, which looks for all of the model. Raises InfrastructureError."""
    try:
        with open_source(folder) as written:
            filled = sum(written.inventory().used.values())
    except UsageError as error:
        raise InfrastructureError(f"what was written cannot be read back: {error}") from error
    if filled != target.tensors:
        raise InfrastructureError(
            f"{folder}: {many(filled, 'tensor is', 'tensors are')} there and {target.tensors} were to be written"
        )
    return filled


def _report(source: Source, target: Target, filled: int, seconds: float, done: int, largest: int) -> None:
    size = sum(part.bytes for part in target.parts)
    wrote = f"{readable(size)} in {seconds:.1f} s, {readable((size - done) / seconds)}/s"
    kept = f", {readable(done)} of it done before" if done else ""
    memory = f", at most {largest >> 20} MiB in a process" if largest else ""
    sys.stdout.write(f"{source.format} -> {target.format}\n{source.inventory().line}\n")
    sys.stdout.write("".join(f"{note}\n" for note in source.notes))
    sys.stdout.write(
        f"filled {filled} of {many(target.tensors, 'tensor')} in {many(len(target.parts), 'file')} ({wrote}{kept}{memory})\n"
    )

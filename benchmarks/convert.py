"""Converting a checkpoint against plainly copying its files, side by side, and mapping in memory against mbridge's loop.

    python benchmarks/convert.py [--gigabytes 4.5] [--rounds 3] [--folder DIR]

Makes a HuggingFace folder in bf16, deletes all that it wrote. Every round converts it to torch_dist, from there back and to the
legacy format, each beside a copy of the files that it reads, into a folder that is not there yet and until it is on the disk.
Prints seconds, the share of the copy's bytes per second, and the largest resident memory of any process.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.convert.folders import config  # noqa: E402
from tests.convert.oracle import Held, loop  # noqa: E402
from validation.candidate.checkpoint.places import Arrangement  # noqa: E402
from validation.candidate.checkpoint.tensors import Megatron  # noqa: E402
from validation.case.model import Model  # noqa: E402
from validation.case.parameters import Parameter, parameters  # noqa: E402
from validation.case.preset import MINI  # noqa: E402
from validation.compare.piece import slices  # noqa: E402
from validation.convert.formats import open_source  # noqa: E402

LAYOUT = "tp2pp2"
_MODEL = replace(
    MINI.model,
    vocab_size=32768,
    hidden_size=2048,
    moe_intermediate_size=1408,
    n_routed_experts=64,
    n_group=8,
    topk_group=4,
    num_experts_per_tok=8,
    num_hidden_layers=2,
)
"""As wide as DeepSeek-V2-Lite and Moonlight; the number of layers makes the size."""


def model_of(gigabytes: float) -> Model:
    """The model with as many layers as it takes, an even number."""
    model = _MODEL
    while size(model) < gigabytes * 1e9:
        model = replace(model, num_hidden_layers=model.num_hidden_layers + 2)
    return model


def size(model: Model) -> int:
    """Bytes in bf16."""
    return 2 * sum(torch.Size(parameter.shape).numel() for parameter in parameters(model).values())


def make(folder: Path, model: Model) -> None:
    """The folder, a file for each layer, of random values."""
    folder.mkdir()
    noise = torch.randn(8 << 20).to(torch.bfloat16)
    held: dict[str, str] = {}
    layers = sorted(
        {parameter.layer for parameter in parameters(model).values()}, key=lambda layer: -1 if layer is None else layer
    )
    for number, layer in enumerate(layers):
        name = f"model-{number + 1:05d}-of-{len(layers):05d}.safetensors"
        tensors = dict(_tensors([found for found in parameters(model).values() if found.layer == layer], noise))
        save_file(tensors, folder / name)
        held |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))
    (folder / "config.json").write_text(json.dumps(config(model)))


def _tensors(wanted: list[Parameter], noise: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    for parameter in wanted:
        shape = parameter.shape[1:] if len(parameter.keys()) > 1 else parameter.shape
        count = torch.Size(shape).numel()
        values = noise.roll(count).repeat(-(-count // len(noise)))[:count].view(shape)
        for key in parameter.keys():  # noqa: SIM118 - no mapping
            yield key, values.clone() if parameter.trained else values.float()


@dataclass(frozen=True)
class Step:
    """What one command took: seconds of the clock, of these those after its imports, seconds of CPU, MiB of a process."""

    seconds: float
    moving: float
    cpu: float
    memory: int = 0


def timed(act: Callable[[], str]) -> Step:
    """Run it; what it returns is what it printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = act()
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    found, moving = re.search(r"at most (\d+) MiB", said), re.search(r"iB in ([\d.]+) s", said)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Step(seconds, float(moving[1]) if moving else seconds, cpu, int(found[1]) if found else 0)


def copied(folder: Path, to: Path) -> str:
    """Copy the files and have them on the disk, as the conversion has its own."""
    subprocess.run(["cp", "-r", str(folder), str(to)], check=True)
    for path in (path for path in to.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return ""


def converted(*words: str) -> str:
    """The whole command, imports and all."""
    command = [sys.executable, "-m", "validation", "convert", *words]
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout


def rounds(folder: Path, place: Path, count: int) -> None:
    """Print each round, and what came of them."""
    there = ("--hf-model-path", str(folder), "--layout", LAYOUT)
    steps: dict[str, Callable[[], str]] = {
        "torch_dist": lambda: converted(*there, "--save", str(place / "torch_dist")),
        "back": lambda: converted("--to-hf", "--load", str(place / "torch_dist"), "--save", str(place / "back")),
        "legacy": lambda: converted(*there, "--format", "legacy", "--save", str(place / "legacy")),
    }
    no_longer = {"torch_dist": (), "back": ("back", "torch_dist"), "legacy": ("legacy",)}
    taken = {"torch_dist": folder, "back": place / "torch_dist", "legacy": folder}
    took: dict[str, list[tuple[Step, Step]]] = {name: [] for name in steps}
    for number in range(count):
        for name, act in steps.items():
            # Whoever writes first to memory that is long unused pays for it, and whoever reads first what is on the disk alone:
            # a copy that does not count, before both.
            for _ in range(2):
                copy = timed(functools.partial(copied, taken[name], place / "copy"))
                shutil.rmtree(place / "copy")
            took[name].append((copy, timed(act)))
            for written in no_longer[name]:
                shutil.rmtree(place / written)
            said = " and ".join(f"{step.seconds:.1f} s ({step.cpu:.1f} s of CPU)" for step in took[name][-1])
            print(f"round {number + 1}, copy and {name}: {said}, load {os.getloadavg()[0]:.1f}", flush=True)
    total = sum(path.stat().st_size for path in folder.iterdir())
    print("| | median | GB/s | share of the copy, each round | the same without imports | CPU | the copy's | largest process |")
    print("|---|---|---|---|---|---|---|---|")
    for name, pairs in took.items():
        shares = ", ".join(f"{copy.seconds / step.seconds:.2f}" for copy, step in pairs)
        moving = ", ".join(f"{copy.seconds / step.moving:.2f}" for copy, step in pairs)
        median, cpu, copying = (
            statistics.median(values)
            for values in zip(*((step.seconds, step.cpu, copy.cpu) for copy, step in pairs), strict=True)
        )
        memory = max(step.memory for _, step in pairs)
        print(
            f"| {name} | {median:.1f} s | {total / median / 1e9:.2f} | {shares} | {moving} | {cpu:.1f} s | {copying:.1f} s "
            f"| {memory} MiB |"
        )


def in_memory(folder: Path, count: int) -> None:
    """Our mapping and mbridge's on the tensors of the first layers, which are in memory."""
    if importlib.util.find_spec("mbridge") is None:
        print("mbridge is not installed: its loop is not measured (pip install -r requirements/oracle.txt)")
        return
    with open_source(folder, layers=(0, 1)) as source:
        held = Held.of(source)
        for _ in range(count):
            ours, bytes_ = mapped(held)
            theirs, same = loop(held, tp=2)
            if same != bytes_:
                raise SystemExit(f"mbridge mapped {same} bytes and we {bytes_}")
            print(f"in memory, {bytes_ / 1e9:.2f} GB for tp2: ours {ours:.2f} s, mbridge {theirs:.2f} s", flush=True)


def mapped(held: Held) -> tuple[float, int]:
    """Seconds in which every tensor of every tp rank is put together, and their bytes."""
    megatron = Megatron(held.described.model, held.parameters, "te")
    start, bytes_ = time.monotonic(), 0
    for ranks, experts in Arrangement.parse("tp2", held.described.model).cuts():
        for tensor in megatron.tensors(ranks):
            if ("{expert}" in tensor.row.megatron) == experts:
                out = torch.empty(tensor.shape, dtype=held.tensors[tensor.holdings[0].parameter.name].dtype)
                for part in tensor.holdings:
                    part.of(out).copy_(held.tensors[part.parameter.name][slices(part.box)])
                bytes_ += out.nbytes
    return time.monotonic() - start, bytes_


def main() -> None:
    """Make the folder, measure, delete it."""
    parser = argparse.ArgumentParser(description="converting against copying")
    parser.add_argument("--gigabytes", type=float, default=4.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where the files go (default here)")
    given = parser.parse_args()
    model = model_of(given.gigabytes)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name) / "model"
        make(folder, model)
        largest = max(torch.Size(found.shape[-2:]).numel() for found in parameters(model).values())
        print(
            f"{size(model) / 1e9:.1f} GB, {model.num_hidden_layers} layers, largest tensor {2 * largest >> 20} MiB", flush=True
        )
        rounds(folder, Path(name), given.rounds)
        in_memory(folder, given.rounds)


if __name__ == "__main__":
    main()

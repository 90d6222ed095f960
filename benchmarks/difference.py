"""Differences beside a copy of the same bytes, in turns in one run: how much of this machine's bandwidth one pass reaches.

    python benchmarks/difference.py [--only cpu|gpu] [--elements N] [--gpu-elements N] [--rounds N] [--tune]

A copy reads one tensor and writes another, a difference reads two: the bytes are the same. The best of the rounds of each
counts, their ratio is what is wanted: at least 0.5 on the CPU and 0.85 on a GPU. `--gpu-elements` are those of bf16 against
bf16; the other kinds have as many bytes. `--tune` tries other shapes of the kernel.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from validation.compare import difference, fused, native
from validation.compare.piece import whole
from validation.compare.staging import to_device

KINDS = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
PIECES = (1_000, 10_000, 50_000)
REPEATS = 200
Work = Callable[[], object]


def pair(elements: int, kind: torch.dtype, other: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """A reference, and a candidate that is off in every element."""
    reference = torch.randn(min(elements, 1 << 24), device=device).repeat(-(-elements // (1 << 24)))[:elements]
    return (reference * 1.01).to(kind), reference.to(other)


def best(works: list[Work], rounds: int, clock: Callable[[Work], float]) -> list[float]:
    """Seconds of each, the best of rounds in which they take turns."""
    timed = [[clock(work) for work in works] for _ in range(rounds)]
    return [min(column) for column in zip(*timed, strict=True)]


def seconds(work: Work) -> float:
    """On the CPU."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def device_seconds(work: Work) -> float:
    """On the GPU, everything that it has been given included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def queued_seconds(work: Work) -> float:
    """On the GPU alone: what the host needs to start it is done while the GPU is kept busy."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(2_000_000)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def line(title: str, moved: int, copied: float, ours: float, further: str = "") -> None:
    """One comparison."""
    print(f"{title}: copy {moved / copied / 1e9:.1f} GB/s, difference {moved / ours / 1e9:.1f} GB/s, "
          f"ratio {copied / ours:.2f}{further}", flush=True)  # fmt: skip


def on_cpu(elements: int, rounds: int) -> None:
    """Large tensors with one thread and with all, then small ones."""
    print(f"CPU: {elements} elements; compiled pass: {native.why() or 'there'}")
    cores = torch.get_num_threads()
    for threads, (name, kind) in itertools.product(sorted({1, cores}), KINDS.items()):
        torch.set_num_threads(threads)
        candidate, reference = pair(elements, kind, kind)
        target, box, moved = torch.empty_like(candidate), whole((elements,)), 2 * candidate.nbytes
        works: list[Work] = [
            lambda: target.copy_(reference),  # noqa: B023 - called before the next turn
            lambda: difference.measure(candidate, reference, box),  # noqa: B023
        ]
        copied, ours = best(works, rounds, seconds)
        plain = seconds(lambda: difference.in_chunks(candidate, reference, box))  # noqa: B023
        line(f"{name}, {threads} threads", moved, copied, ours, f"; NumPy's passes {moved / plain / 1e9:.1f} GB/s")
    torch.set_num_threads(1)
    for size, (name, kind) in itertools.product(PIECES, KINDS.items()):
        candidate, reference = pair(size, kind, kind)
        small: list[Work] = [
            lambda: [difference.measure(candidate, reference, whole((size,))) for _ in range(REPEATS)],  # noqa: B023
            lambda: [difference.in_chunks(candidate, reference, whole((size,))) for _ in range(REPEATS)],  # noqa: B023
        ]
        ours, plain = best(small, rounds, seconds)
        print(f"{name}, piece of {size}: {ours / REPEATS * 1e6:.1f} us; NumPy's passes {plain / REPEATS * 1e6:.1f} us")
    torch.set_num_threads(cores)


def on_gpu(elements: int, rounds: int, tune: bool) -> None:
    """Every kind, against its own and against a truth in float64; then digests, and references that lie on the host."""
    print(f"GPU: {torch.cuda.get_device_name()}, {elements} elements; fused pass: {fused.why() or 'there'}")
    moved = 4 * elements
    for name, other in (("bf16", "bf16"), ("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "fp64")):
        of_kinds(name, other, moved // (KINDS[name].itemsize + KINDS[other].itemsize), rounds, tune)
        torch.cuda.empty_cache()
    from_host(rounds)


def of_kinds(name: str, other: str, elements: int, rounds: int, tune: bool) -> None:
    """One kind against another on the GPU."""
    from validation.compare import kernels

    candidate, reference = pair(elements, KINDS[name], KINDS[other], "cuda")
    moved, box = candidate.nbytes + reference.nbytes, whole((elements,))
    source = torch.empty(moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    works: list[Work] = [
        lambda: target.copy_(source),
        lambda: difference.measure(candidate, reference, box),
        lambda: fused.digest(candidate),
    ]
    copied, ours, digested = best(works, rounds + 2, device_seconds)
    plain = device_seconds(lambda: difference.in_chunks(candidate, reference, box))
    digests = f"digest {candidate.nbytes / digested / 1e9:.1f} GB/s"
    alone = min(queued_seconds(lambda: kernels.statistics(candidate, reference)) for _ in range(rounds))
    further = f"; kernels alone {moved / alone / 1e9:.1f} GB/s, torch's passes {moved / plain / 1e9:.1f} GB/s, {digests}"
    line(f"{name} against {other}", moved, copied, ours, further)
    if tune:
        tuned(candidate, reference, copied, moved, rounds)


def tuned(candidate: torch.Tensor, reference: torch.Tensor, copied: float, moved: int, rounds: int) -> None:
    """The best shapes of the kernel, the best last."""
    from validation.compare import kernels

    usual, found = kernels.SHAPE, []
    for block, stages, programs in itertools.product((1024, 2048), (1, 3), (8, 16, 32, 64, 128)):
        kernels.SHAPE = kernels.Shape(block, 4, stages, programs)
        try:
            ours = best([lambda: fused.sums(candidate, reference)], rounds, device_seconds)[0]
        except Exception as error:  # a shape may ask for more than the card has
            print(f"  {kernels.SHAPE}: {type(error).__name__}: {error}")
            continue
        found.append((copied / ours, kernels.SHAPE))
    kernels.SHAPE = usual
    for ratio, shape in sorted(found, key=lambda one: one[0])[-5:]:
        print(f"  {shape}: {moved / copied * ratio / 1e9:.0f} GB/s, ratio {ratio:.2f}", flush=True)


def from_host(rounds: int) -> None:
    """A reference in pageable memory: the driver's way and ours; and pinned, which is what the bus takes."""
    host = torch.randn(1 << 27).to(torch.bfloat16)
    pinned, device = host.pin_memory(), torch.device("cuda", 0)
    works: list[Work] = [
        lambda: host.to(device),
        lambda: to_device(host, device),
        lambda: pinned.to(device, non_blocking=True),
    ]
    plain, ours, bus = (host.nbytes / one / 1e9 for one in best(works, rounds, device_seconds))
    print(f"from the host: pageable {plain:.1f} GB/s, through pinned buffers {ours:.1f} GB/s, pinned {bus:.1f} GB/s")


def main() -> None:
    """The CPU, and the GPU where there is one."""
    parser = argparse.ArgumentParser(description="differences beside a copy of the same bytes")
    parser.add_argument("--only", choices=("cpu", "gpu"))
    parser.add_argument("--elements", type=int, default=1 << 26)
    parser.add_argument("--gpu-elements", type=int, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tune", action="store_true")
    given = parser.parse_args()
    if given.only != "gpu":
        on_cpu(given.elements, given.rounds)
    if given.only != "cpu" and torch.cuda.is_available():
        on_gpu(given.gpu_elements, given.rounds, given.tune)
    elif given.only != "cpu":
        print("GPU: there is none here")


if __name__ == "__main__":
    main()

"""What nox's environment for CPU sessions takes to make, with pip and with uv, side by side.

    python benchmarks/install.py [--rounds N]

Each round makes a fresh environment with each installer: with an empty cache, with the cache that this has filled, and asks
once more for what is already there, as every session does. Settings of pip's count for both (ci/uv.py).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ci import uv

ROOT = Path(__file__).parents[1]
KINDS = ("empty cache", "full cache", "already there")


def install(installer: str, python: Path, cache: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU, to install what CPU sessions need into the environment of this Python."""
    pip, variables = [str(python), "-m", "pip"], {"PIP_CACHE_DIR": str(cache / "pip")}
    files = ("-r", "requirements/cpu.txt")
    start, busy = time.perf_counter(), cpu()
    command = [*pip, "install", "--quiet", *files]
    if installer == "uv":
        # As nox does: what pip would go by is asked first.
        listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True).stdout
        settings = uv.settings(listed)
        command = ["uv", "pip", "install", "--quiet", "--python", str(python), *settings.words, *files]
        variables = {**settings.variables, "UV_CACHE_DIR": str(cache / "uv")}
    subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=True)
    return time.perf_counter() - start, cpu() - busy


def cpu() -> float:
    """Seconds of CPU that processes have taken which this one started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def round_of(installer: str, folder: Path) -> dict[str, tuple[float, float]]:
    """What `install` says of each kind."""
    taken = {}
    for kind in KINDS:
        python = folder / installer / "environment" / "bin" / "python"
        if kind != KINDS[2]:
            subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", "--clear", str(python.parents[1])], check=True)
        taken[kind] = install(installer, python, folder)
    return taken


def main() -> None:
    """Print what each takes, and how many times what uv takes pip does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(parser.parse_args().rounds):
        for installer in ("pip", "uv"):
            with tempfile.TemporaryDirectory(prefix="plumbline-install-") as folder:
                for kind, taken in round_of(installer, Path(folder)).items():
                    found[installer, kind].append(taken)
                    print(f"{installer}, {kind}: {taken[0]:.1f} s, {taken[1]:.1f} s of CPU", flush=True)
    for kind in KINDS:
        rounds = list(zip(found["pip", kind], found["uv", kind], strict=True))
        seconds, busy = (statistics.median(pip[which] / fast[which] for pip, fast in rounds) for which in (0, 1))
        print(f"{kind}: pip takes {seconds:.1f} times as long as uv, and {busy:.1f} times as much CPU")


if __name__ == "__main__":
    main()

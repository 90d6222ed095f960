"""What the stand-ins of a capture do: write their arguments down and end well, or run what they were to start.

Runs alone, with whatever Python there is: the standard library, and nothing newer than Python 3.7.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time

TRAINING = ("torchrun", "ft_launcher", "deepspeed", "accelerate", "megatron", "swift", "composer", "horovodrun")
"""Programs that train: written down, never run."""
STARTING = (
    "srun",
    "sbatch",
    "salloc",
    "qsub",
    "bsub",
    "mpirun",
    "mpiexec",
    "jsrun",
    "aprun",
    "flux",
    "uv",
    "conda",
    "mamba",
    "micromamba",
    "poetry",
    "pipenv",
    "pixi",
    "sudo",
    "systemd-run",
    "tmux",
    "screen",
    "ray",
    "numactl",
    "nsys",
    "ncu",
    "py-spy",
    "singularity",
    "apptainer",
    "docker",
    "podman",
    "enroot",
)
"""Programs that start others somewhere: what they would start is run here, with the stand-ins."""
RUNNING = ("uv", "conda", "mamba", "micromamba", "poetry", "pipenv", "pixi")
"""Of those, programs that start another only as `uv run COMMAND`."""
SILENT = (
    "pkill",
    "killall",
    "scancel",
    "pip",
    "pip3",
    "shutdown",
    "reboot",
    "ssh",
    "rsh",
    "pdsh",
    "clush",
    "pssh",
    "parallel-ssh",
    "at",
    "batch",
    "kubectl",
    "helm",
    "arena",
    "dlc",
    "runai",
    "sky",
    "sleep",
)
"""Programs that do nothing in a capture, and end well."""
BATCH = ("sbatch", "qsub", "bsub")
"""Programs that start a script, from a file or from standard input."""
MPI = ("mpirun", "mpiexec")
ANSWERS = {"scontrol": "localhost"}
"""Programs that scripts ask, and what they are told."""
PYTHON = re.compile(r"python[0-9.]*")
_NAMING = (
    "-J",
    "--job-name",
    "--name",
    "--container-name",
    "--container-workdir",
    "-D",
    "--chdir",
    "-w",
    "--workdir",
    "-p",
    "--partition",
    "-A",
    "--account",
    "-S",
    "-dmS",
)
"""Options of programs that start others whose value can read like a program: a job that is called megatron."""
OWN_VALUE = ("-X", "-W", "--check-hash-based-pycs")
"""Options of Python with a word behind them."""
KEPT = re.compile(
    r"(NVTE|NCCL|CUDA|TORCH|PYTORCH|CUBLAS|NVSHMEM|TRITON|OPEN_TRAINING|OMP(?!I_))_?[A-Z0-9_]*|N(PROC_PER_NODE|NODES)"
)
"""Variables that belong to a recipe."""
SIZES = (
    (re.compile(r"(?<=\s)(?:--nodes|-N)[= ]?([0-9]+)"), "SLURM_NNODES"),
    (re.compile(r"--ntasks-per-node[= ]([0-9]+)"), "SLURM_NTASKS_PER_NODE"),
    (re.compile(r"(?<=\s)(?:--ntasks|--?np?)[= ]?([0-9]+)"), "SLURM_NTASKS"),
    (re.compile(r"--gpus-per-node[= ](?:[a-z0-9]+:)?([0-9]+)"), "SLURM_GPUS_ON_NODE"),
)

_PLACEHOLDER = re.compile(r"(?<=\s)(?:--nodes|--ntasks|--ntasks-per-node)[= ][^0-9\s]")
"""A number of nodes or tasks that somebody still has to fill in."""
_UNTOLD = "untold"


def _folder() -> str:
    return os.environ["PLUMBLINE_CAPTURE"]


def _write(words: list[str], kind: str) -> int:
    """Write a call down; a reader sees all of it or nothing. Returns the exit code of the stand-in."""
    with open(os.path.join(_folder(), "before.json"), encoding="utf-8") as file:
        before = json.load(file)
    changed = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name) and before.get(name) != value}
    said = {"words": words, "kind": kind, "folder": os.getcwd(), "environment": changed, "ranks": _ranks()}
    name = f"{time.time_ns():020d}-{os.getpid()}"
    unfinished = os.path.join(_folder(), "calls", "." + name)
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(said, file)
    os.replace(unfinished, os.path.join(_folder(), "calls", name + ".json"))
    return 0


def _ranks() -> int:
    """Processes that Slurm or MPI would start of a program; 0 where neither does."""
    if not os.environ.get("PLUMBLINE_SRUN"):
        return 0
    if os.environ["PLUMBLINE_SRUN"] == _UNTOLD:
        return 0
    tasks, nodes = os.environ.get("SLURM_NTASKS", ""), os.environ.get("SLURM_NNODES", "1")
    each = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    if tasks.isdigit():
        return int(tasks)
    return int(each) * int(nodes) if each.isdigit() and nodes.isdigit() else 0


def of_python(words: list[str]) -> int | None:
    """What becomes of a Python that was called so: an exit code if it must not run, None if it may."""
    said = trained_by(words)
    if said is None:
        return None
    return _write(said, "python") if said[0] == "python" else main(said)


def trained_by(words: list[str]) -> list[str] | None:
    """What a Python would train with, and a launcher by its own name; None for one that may run.

    Code given by -c or on standard input may run, and so does a question for the version.
    """
    place = _script(words)
    if place is None:
        return None
    if words[place].startswith("-"):
        module = words[place].split("m", 1)[1]
        return ["python", "-m", *([module] if module else []), *words[place + 1 :]]
    name = os.path.basename(words[place])
    if PYTHON.fullmatch(name) is None and not name.endswith(".py") and _is_installed(words[place]):
        return [name, *words[place + 1 :]] if name in TRAINING + STARTING + SILENT else None
    return ["python", *words[place:]]


def trained_script(words: list[str]) -> str:
    """The word with which the options of Python end: the script, or -m."""
    place = _script(words)
    return words[0] if place is None else words[place]


def _script(words: list[str]) -> int | None:
    """Where the script or -m stands; None if there is neither."""
    place = 1
    while place < len(words) and words[place].startswith("-") and words[place] != "-":
        word = words[place]
        short = "" if word.startswith("--") or word[:2] in OWN_VALUE else word[1:]
        if word in ("-V", "-VV", "--version", "-h", "--help") or "c" in short.split("m")[0]:
            return None
        if "m" in short:
            return place
        place += 2 if word in OWN_VALUE else 1
    return place if place < len(words) and words[place] != "-" else None


def _is_installed(path: str) -> bool:
    """Whether this is a command that a package brought, such as torchrun or yq, and not a script of the user's."""
    return os.path.basename(os.path.dirname(path)) in ("bin", "sbin") or os.path.basename(path) in TRAINING + STARTING + SILENT


def _real(name: str) -> str | None:
    """The program of this name that stands behind the stand-ins."""
    ours = os.path.join(_folder(), "bin")
    path = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != ours]
    return shutil.which(name, path=os.pathsep.join(path))


def _run_python(words: list[str]) -> int:
    """Run code that a script computes something with. A Python without torch is replaced by the one that captures."""
    own = os.environ["PLUMBLINE_PYTHON"]
    found = _real(words[0]) or own
    done = subprocess.run([found, *words[1:]])
    if done.returncode and found != own and any("torch" in word for word in words):
        done = subprocess.run([own, *words[1:]])
    return done.returncode


def _sized(words: list[str], text: str) -> None:
    """Tell the variables of Slurm what the options of srun, sbatch and mpirun say of nodes and tasks.

    Where nobody says how many ranks srun and mpirun start, they are left open.
    """
    if words[0] in ("srun", "sbatch", "salloc", *MPI):
        for pattern, name in SIZES:
            found = pattern.search(" " + text)
            if found:
                os.environ[name] = found.group(1)
                if name == "SLURM_NNODES":
                    os.environ["SLURM_JOB_NUM_NODES"] = found.group(1)
        told = ("SLURM_NTASKS",) if words[0] in MPI else ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE")
        if words[0] in ("srun", *MPI) and not any(name in os.environ for name in told):
            os.environ["PLUMBLINE_SRUN"] = _UNTOLD
        usual = {"SLURM_NNODES": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}
        usual.update({"SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "localhost"})
        usual.update({"SLURM_SUBMIT_DIR": os.getcwd(), "SLURM_NODELIST": "localhost"})
        if words[0] in MPI:
            usual.update({f"OMPI_COMM_WORLD_{rank}": "0" for rank in ("RANK", "LOCAL_RANK", "NODE_RANK")})
            usual["OMPI_COMM_WORLD_SIZE"] = os.environ.get("SLURM_NTASKS", "1")
        for name, value in usual.items():
            os.environ.setdefault(name, value)
        if words[0] in ("srun", *MPI):
            os.environ.setdefault("PLUMBLINE_SRUN", "1")
        if _PLACEHOLDER.search(" " + text):
            os.environ["PLUMBLINE_SRUN"] = _UNTOLD


def _start(words: list[str]) -> int:
    """Run in this place what the program would start elsewhere."""
    rest = _started(words)
    options = words[1 : len(words) - len(rest)]
    script = ""
    if words[0] in BATCH and not rest:
        rest = _job()
    if words[0] in BATCH and rest and os.path.isfile(rest[0]):
        with open(rest[0], encoding="utf-8", errors="replace") as file:
            script = " ".join(line[len("#SBATCH") :].strip() for line in file if line.startswith("#SBATCH"))
        rest = ["bash", *rest]
    _sized(words, script + " " + " ".join(options))
    _runtime(words)
    _write(words, "started" if rest else "silent")
    return subprocess.run(rest).returncode if rest else 0


def _job() -> list[str]:
    """The script that sbatch or bsub reads from standard input, as a file; nothing if it is empty."""
    text = "" if sys.stdin.isatty() else sys.stdin.read()
    if not text.strip():
        return []
    place = os.path.join(_folder(), f"job-{os.getpid()}.sh")
    with open(place, "w", encoding="utf-8") as file:
        file.write(text)
    return [place]


def _runtime(words: list[str]) -> None:
    """The variables that `ray job submit` takes along."""
    for place, word in enumerate(words):
        name, joined, text = word.partition("=")
        if name == "--runtime-env-json":
            try:
                found = json.loads(text if joined else words[place + 1]).get("env_vars", {})
            except (ValueError, AttributeError, IndexError):
                return
            os.environ.update({str(name): str(value) for name, value in found.items() if KEPT.fullmatch(str(name))})


def _started(words: list[str]) -> list[str]:
    """The command behind the options: behind `--`, or from the first word that is a program or a script."""
    if words[0] == "ray" and words[1:3] != ["job", "submit"]:
        return []
    if words[0] in RUNNING and words[1:2] != ["run"]:
        return []
    wrapped = [word.partition("=")[2] for word in words if word.startswith("--wrap=")]
    if "--wrap" in words[:-1]:
        wrapped.append(words[words.index("--wrap") + 1])
    if wrapped:
        return ["bash", "-c", wrapped[0]]
    if "--" in words:
        return words[words.index("--") + 1 :]
    typed = [word for word in words[1:] if " " in word.strip()]
    if words[0] in ("tmux", "bsub") and typed:
        return ["bash", "-c", typed[-1]]
    for place, word in enumerate(words[1:], 1):
        if word.startswith("-") or words[place - 1] in _NAMING or os.path.isdir(word):
            continue
        script = os.path.isfile(word) and (words[0] in BATCH or os.access(word, os.X_OK))
        if script or shutil.which(word):
            return words[place:]
        if PYTHON.fullmatch(os.path.basename(word)) or os.path.basename(word) in TRAINING:
            return [os.path.basename(word), *words[place + 1 :]]
    return []


def main(words: list[str]) -> int:
    """What the stand-in of the name `words[0]` does with its arguments. Returns its exit code."""
    name = words[0]
    if name in ANSWERS:
        sys.stdout.write(ANSWERS[name] + "\n")
        return 0
    if name in SILENT:
        return _write(words, "silent") if name != "sleep" else 0
    if name in STARTING:
        return _start(words)
    if PYTHON.fullmatch(name):
        code = of_python(words)
        return _run_python(words) if code is None else code
    return _write(words, "training")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What surrounds a command and may not change what it does: files that Python would import instead of what is installed.

And a working folder that is gone: neither torch nor multiprocessing starts without one.

The first thing that `python -m validation` and `python -m ci` ask. Until then nothing may be imported that such a file could
stand for, so this module imports what Python has loaded by itself.
"""

import os
import site
import sys
from importlib.machinery import PathFinder

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CUSTOMIZE = ("sitecustomize", "usercustomize")
"""Modules that Python imports when it starts, before any line of a program."""
PACKAGES = (
    *("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"),
    *("yaml", "_yaml", "junitparser", "lxml", "isal", "psutil"),
    *("torch", "numpy", "safetensors", "transformers", "tokenizers", "huggingface_hub", "transformer_engine", "triton"),
    *("typing_extensions", "filelock", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "einops", "regex"),
    *("tqdm", "requests", "urllib3", "certifi", "idna", "charset_normalizer", "httpx", "httpcore", "h11", "anyio", "sniffio"),
    *(
        "typer",
        "click",
        "rich",
        "setuptools",
        "pkg_resources",
        "colorama",
        "exceptiongroup",
        "tomli",
        "py",
        "functorch",
        "torchgen",
        "hf_xet",
    ),
)
"""What is installed for Plumbline, and what that imports, by the names that are imported."""
_OURS = ("ci", "validation", "plumbline", "tests", "benchmarks", "noxfile", "hatch_build")
_MEGATRON = "megatron"
USAGE, INTERRUPTED = 2, 130
"""Of validation.case.errors.ExitCode; importing it would import what may be shadowed."""


class Starting:
    """The time until a command's modules are there. If it ends otherwise, the command leaves no report of an earlier run.

    Python would answer an interrupt with a traceback; this ends the process with a sentence.
    """

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, kind: object, *_: object) -> None:
        """Raise what ended it, or end the process."""
        if kind is None:
            return
        leave_nothing_old(sys.argv[1:])
        if kind is KeyboardInterrupt:
            sys.stderr.write("error: interrupted\n")
            sys.stderr.flush()
            os._exit(INTERRUPTED)


def refuse() -> None:
    """End this process with a sentence without a working folder, or if a file would run in place of what is installed."""
    _open_what_is_closed()
    if said := nowhere() or intruder(sys.path) or stranger_of_warnings(sys.warnoptions, sys.path):
        leave_nothing_old(sys.argv[1:])
        sys.stderr.write(f"error: {said}\n")
        sys.stderr.flush()
        os._exit(USAGE)


def _open_what_is_closed() -> None:
    """Give a standard stream that whoever started this process has closed the null device.

    Python has None in its place, and the next file that is opened would get its number and all that libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def nowhere() -> str:
    """What is wrong with the working folder; empty if it is there."""
    try:
        os.getcwd()
    except OSError as error:
        return f"the working folder is not there ({error.strerror}), perhaps removed; change to another with cd"
    return ""


def stranger_of_warnings(options: list[str], path: list[str]) -> str:
    """What is wrong with the options of `-W` and PYTHONWARNINGS; empty if nothing is.

    Python imports the module of a category such as `package.Warning` before any line of a program.
    """
    trusted = _of_the_interpreter()
    strange = [folder for folder in path if not _is_below(folder, trusted) and not _holds_installed(folder)]
    for option in options:
        category = [*option.split(":"), "", ""][2].strip()
        module = category.partition(".")[0]
        if "." in category and _found(module, strange):
            return (
                f"the warnings option {option} has Python run {_shown_in(strange, module)} before Plumbline, so it could "
                "change what is checked; leave it out of PYTHONWARNINGS and -W"
            )
    return ""


def leave_nothing_old(words: list[str]) -> None:
    """Move every report in the results folder of a `run` to its folder `before`: the run ends before it knows its own.

    What a run otherwise does about reports of earlier ones (validation/checks/before.py) needs modules that may be hidden,
    missing or broken here.
    """
    if "run" not in words:
        return
    # Abbreviated, too, as argparse takes it: no other option begins like this.
    named = [(place, *word.partition("=")) for place, word in enumerate(words) if word.startswith("--res")]
    given = [value if equals else "".join(words[place + 1 : place + 2]) for place, _, equals, value in named]
    folder = given[-1] if given and given[-1] else "results"
    for name in _entries(folder):
        if name.endswith(".xml"):
            try:
                os.makedirs(os.path.join(folder, "before"), exist_ok=True)
                os.replace(os.path.join(folder, name), os.path.join(folder, "before", name))
            except OSError:
                os.replace(os.path.join(folder, name), os.path.join(folder, f"{name}.before"))


def intruder(path: list[str]) -> str:
    """What is wrong with the folders that Python imports from, in their order; empty if nothing is.

    What belongs to the interpreter or its environment is trusted as torch is. So is a folder of PYTHONPATH into which packages
    were installed. A Megatron on PYTHONPATH may be what is to be compared; one in Plumbline's own folder hides the installed.
    """
    trusted = _of_the_interpreter()
    for place, folder in enumerate(path):
        found = os.path.realpath(folder or os.curdir)
        later, own = path[place + 1 :], found == os.path.realpath(ROOT)
        if not own and _is_below(folder, trusted):
            continue
        for name in CUSTOMIZE:
            if _found(name, [folder]):
                return (
                    f"{_shown(folder, name)} is run by Python before Plumbline, so it could change what is checked; "
                    "remove it, or take its folder off PYTHONPATH"
                )
        names = [*sys.stdlib_module_names, *(PACKAGES if own or not _holds_installed(folder) else ())]
        names += [name for name in _listed(folder) if name not in _OURS] if own else []
        hidden = next((name for name in names if _found(name, [folder]) and _found(name, later)), None)
        if hidden is None and own and os.path.isdir(os.path.join(ROOT, _MEGATRON)):
            hidden = _MEGATRON
        if hidden is not None:
            return (
                f"{_shown(folder, hidden)} would be imported instead of the {hidden} that is installed; rename it, or take its "
                "folder off PYTHONPATH"
            )
    return ""


def _is_below(folder: str, trusted: set[str]) -> bool:
    found = os.path.realpath(folder or os.curdir)
    return any(found == one or found.startswith(os.path.join(one, "")) for one in trusted)


def _of_the_interpreter() -> set[str]:
    """Python's own library, and where packages are installed for it."""
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    return {os.path.realpath(folder) for folder in (os.path.dirname(os.__file__), *site.getsitepackages(prefixes))}


def _holds_installed(folder: str) -> bool:
    return any(name.endswith((".dist-info", ".egg-info")) for name in _entries(folder))


def _listed(folder: str) -> list[str]:
    """The names by which what lies in a folder might be imported."""
    return sorted({name.partition(".")[0] for name in _entries(folder)} - {""})


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder or os.curdir)
    except OSError:
        return []


def _found(name: str, path: list[str]) -> bool:
    """Whether Python finds a module or a package; a folder without an __init__.py gives way to both."""
    spec = PathFinder.find_spec(name, path)
    return spec is not None and spec.loader is not None and spec.origin is not None


def _shown_in(folders: list[str], name: str) -> str:
    return next((_shown(folder, name) for folder in folders if _found(name, [folder])), name)


def _shown(folder: str, name: str) -> str:
    spec = PathFinder.find_spec(name, [folder])
    return str((spec and spec.origin) or os.path.join(folder or os.getcwd(), name))

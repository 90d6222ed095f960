"""The commands `plumbline` and `plumbline-ci`: `validation` and `ci`, run as Python's `-m` runs them.

They are not in anybody's site-packages: their names are too common. So the folder that holds them leads the import path, for
this process and for those that it starts. The working folder ends it: a user's own layer spec is found there, and no file of it
can hide a module. Imports what Python has loaded by itself; the rest waits until `validation` has looked at the path.
"""

import os
import sys

from plumbline.place import root

STARTED = "PLUMBLINE_COMMANDS"
"""Set for the process and its children: by which of `_STARTED` a user has called it (validation/case/tree.py)."""
_STARTED = ("script", "module")
FOLDERS = "PLUMBLINE_FOLDERS"
"""Names folders that end the import path, besides the working folder: those of whoever calls `plumbline.check`."""


def main() -> None:
    """The command `plumbline`."""
    _run("validation", "main")


def ci() -> None:
    """The command `plumbline-ci`."""
    _run("ci", "ci")


def _run(package: str, function: str) -> None:
    if sys.flags.ignore_environment:
        _start_again(function)
    sys.path[:] = import_path(sys.path, root(), _last(), sys.flags.safe_path)
    given = [os.path.abspath(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([root(), *given]))
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ[STARTED] = _STARTED[not os.path.basename(sys.argv[0]).startswith("plumbline")]

    import runpy

    runpy.run_module(package, run_name="__main__", alter_sys=True)


def _start_again(function: str) -> None:
    """Run the function in a Python that listens to variables: by them the processes that it starts find what it finds.

    pipx starts programs with `-E`, which the processes inherit. The variables that it keeps away stay away, but for PYTHONPATH:
    that names folders of a user's own code.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONPATH"}
    code = f"from plumbline.commands import {function}; {function}()"
    user = ["-s"] if sys.flags.no_user_site else []
    os.execve(sys.executable, [sys.executable, *user, "-P", "-c", code, *sys.argv[1:]], kept)


def import_path(path: list[str], first: str, last: list[str], safe: bool) -> list[str]:
    """The import path with the folder `first` before it and the folders `last` after it.

    Python itself puts the folder of a script, or for `-m` the working folder, in front unless the path is `safe`.
    """
    kept = path if safe else path[1:]
    return list(dict.fromkeys([first, *kept, *last]))


def _last() -> list[str]:
    """The working folder, unless it is gone: about that `validation` has a sentence."""
    folders = [folder for folder in os.environ.pop(FOLDERS, "").split(os.pathsep) if folder]
    try:
        return [os.getcwd(), *folders]
    except OSError:
        return folders

"""How to see a failure again from nothing: a block for a shell, from an empty folder to the command.

Commands stand in results, and whoever wrote those chose every character: a command that is more to a shell than
`python -m validation run` with its options is not shown. Addresses come from the CI service's variables.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ci import service
from ci.junit import Check, Suite
from validation.case.case import IMPLEMENTATIONS, TE

LONGEST = 4000
"""Characters of a command."""
_WORD = r"(?:[A-Za-z0-9_@%+=:,./-]|'[^']*'|\"'\")+"
"""A word as shlex.quote writes it: nothing in it is expanded by a shell."""
_INSTALLED, _IN_A_CHECKOUT = "plumbline run", "python -m validation run"
"""The command as the installed package says it, and as it runs in the checkout that `setup` makes."""
_OURS = re.compile(f"(?:{_IN_A_CHECKOUT}|{_INSTALLED})(?: {_WORD})*")
_MEGATRON = re.compile(f" --megatron-path (?P<folder>{_WORD})")
_OTHER_FOLDERS = re.compile(f" (?P<option>--hf-model-path|--candidate-checkpoint|--plugin) (?P<folder>{_WORD})")
_SHA = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_ON_GPUS = ("nccl", "staged")


@dataclass(frozen=True)
class Sources:
    """Where what was tested can be had.

    `plumbline` and `megatron` are addresses that git fetches from, empty where they are not known. `core` is the folder of the
    Megatron repository that holds megatron/core, `specs` the one that a layer spec is imported from; "." is its root.
    """

    plumbline: str = ""
    megatron: str = ""
    core: str = "."
    specs: str = ""


UNKNOWN = Sources()


def sources(environment: Mapping[str, str] = os.environ) -> Sources:
    """As the gate's job has them, whichever service runs it (.github/workflows/parity.yml, docs/gitlab.md, docs/jenkins.md)."""
    found = service.told(environment)
    addresses = {name: found.repository(environment.get(f"{name}_REPOSITORY", "")) for name in ("PLUMBLINE", "MEGATRON")}
    core, specs = (environment.get(name, "") for name in ("MEGATRON_FOLDER", "MEGATRON_SPECS"))
    return Sources(addresses["PLUMBLINE"], addresses["MEGATRON"], _inside(core) or ".", _inside(specs))


def _inside(folder: str) -> str:
    """A folder of a repository; empty for one that is none."""
    return folder if folder.isprintable() and ".." not in folder.split("/") and not folder.startswith("/") else ""


def command(check: Check) -> str:
    """The command that runs a check again; empty if there is none, or none of ours."""
    return ours(check.properties.get("reproduce", ""))


def ours(text: str) -> str:
    """The text if it is a command of ours and nothing else to a shell, else nothing."""
    return text if len(text) <= LONGEST and text.isprintable() and _OURS.fullmatch(text) else ""


def elsewhere(text: str) -> str:
    """A command of ours as it runs on another machine: with the checkouts that `setup` makes there."""
    if text.startswith(_INSTALLED):
        text = _IN_A_CHECKOUT + text.removeprefix(_INSTALLED)
    return _MEGATRON.sub(' --megatron-path "$MEGATRON"', text)


def setup(suite: Suite, text: str, of: Sources) -> str:
    """The lines before the command: an empty folder, the code at its commit, an environment."""
    return "\n".join(_setup(suite, text, of))


def _setup(suite: Suite, text: str, of: Sources) -> Iterator[str]:
    properties = suite.properties
    if properties.get("dirty") == "true":
        yield "# It ran with files that were changed and not committed; this is the commit without them."
    yield 'cd "$(mktemp -d)"'
    commit = properties.get("commit", "")
    yield from _fetched("plumbline", of.plumbline, commit if _SHA.fullmatch(commit) else "")
    fetched = False
    if found := _MEGATRON.search(text):
        commit = properties.get("megatron-commit", "")
        fetched = bool(of.megatron and _SHA.fullmatch(commit))
        yield from _of_megatron(commit, found["folder"], of)
    if properties.get("implementation", "local") not in IMPLEMENTATIONS:
        yield from _of_specs(properties["implementation"], of.specs if fetched else "")
    yield "cd plumbline"
    yield from _environment(properties)
    for other in _OTHER_FOLDERS.finditer(text):
        yield f"# Put your copy of {other['folder']} in its place: {other['option']} names what the other machine had."


def _fetched(folder: str, address: str, commit: str) -> Iterator[str]:
    """One commit, also of a pull request that was merged for a test, which a clone does not have."""
    if not address:
        variable = folder.upper()
        yield f"{variable}_REPOSITORY=...   # the address of the repository of {folder}, which is not known here"
        address = f'"${variable}_REPOSITORY"'
    if not commit:
        yield "COMMIT=...   # the commit that was tested, which the results do not say"
        commit = '"$COMMIT"'
    yield f"git init --quiet {folder}"
    yield f"git -C {folder} fetch --quiet --depth 1 {address} {commit}"
    yield f"git -C {folder} checkout --quiet FETCH_HEAD"


def _of_megatron(commit: str, folder: str, of: Sources) -> Iterator[str]:
    if of.megatron and _SHA.fullmatch(commit):
        yield from _fetched("megatron", of.megatron, commit)
        yield f'MEGATRON="$PWD"/megatron/{shlex.quote(of.core)}'
    else:
        at = f" at commit {commit}" if _SHA.fullmatch(commit) else ""
        yield f"MEGATRON=...   # your checkout of Megatron{at}: the folder that holds megatron/core. It was {folder} there."


def _of_specs(implementation: str, folder: str) -> Iterator[str]:
    if folder:
        yield f'export PYTHONPATH="$PWD"/megatron/{shlex.quote(folder)}'
    elif re.fullmatch(r"[\w.]+:\w+", implementation) and not implementation.startswith("tests."):
        yield f"export PYTHONPATH=...   # the folder that {implementation.partition(':')[0]} is imported from"


def _environment(properties: Mapping[str, str]) -> Iterator[str]:
    yield "python3 -m venv .venv && . .venv/bin/activate"
    gpus = properties.get("transport", "") in _ON_GPUS
    yield f"python -m pip install --quiet -r requirements/{'cuda' if gpus else 'cpu'}.txt"
    if properties.get("implementation", "") in TE:
        yield "python -m pip install --quiet --no-build-isolation -r requirements/te.txt   # docs/runner.md says what it needs"

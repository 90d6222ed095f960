"""Commands in pages, forms and skills, read by the programs that they call. Nothing is run.

`run` and its sessions of nox are read up to the cases.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ci import cli as pipeline
from ci.table import rows
from validation import cli
from validation.case import preflight
from validation.run.options import settings

ROOT = Path(__file__).parents[1]
OTHERS = ("git", "pip", "pre-commit", "python3", "npm", ".", "cd", "export", "jq", "gh")
"""Programs that are not ours: their words are not read."""
DOCTOR = ("--json", "--megatron-path", "--help")


def in_blocks(text: str, *languages: str) -> list[str]:
    """Commands in the fenced blocks of a Markdown text, one a line; a line that ends with a backslash goes on in the next."""
    found: list[str] = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language in languages:
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return found


def understand(command: str, *, possible: bool = False) -> None:
    """Raise what the program would end with if a command is not understood: SystemExit, PlumblineError or AssertionError.

    `possible`: also if one of its cases is impossible. Pages show some that are.
    """
    words = shlex.split(command, comments=True)
    words = words[: words.index(">")] if ">" in words else words
    while words and re.fullmatch(r"\w+=.*", words[0]):  # a variable of the environment
        words = words[1:]
    program, rest = _program(words)
    if program == "validation":
        _validation(rest, possible)
    elif program == "ci":
        pipeline._parser(rest[0]).parse_args(rest)
    elif program == "nox":
        _nox(rest, possible)
    elif program == "pytest":
        named = [word.partition("::")[0] for word in rest if "/" in word or word == "tests"]
        assert all((ROOT / name).exists() for name in named), command
    else:
        assert program in OTHERS, f"nobody reads {command}"


def _program(words: list[str]) -> tuple[str, list[str]]:
    """The program, by our own name for it, and the words for it."""
    if words[:2] == ["python", "-m"]:
        return words[2], words[3:]
    return {"plumbline": "validation", "plumbline-ci": "ci"}.get(words[0], words[0]), words[1:]


def _validation(words: list[str], possible: bool) -> None:
    ours = words[: words.index("--")] if "--" in words else words
    if ours[:1] == ["doctor"]:
        assert all(word in DOCTOR for word in ours[1:] if word.startswith("-")), words
        return
    options = cli._parser().parse_args(ours)
    if options.command == "run":
        wanted = settings(options, shlex.join(words))
        for case in wanted.cases if possible else ():
            preflight.check(case, max_ranks=wanted.max_ranks, gpus=8, memory=None, card=None, share=wanted.share_gpu)


def _nox(words: list[str], possible: bool) -> None:
    """Sessions that exist, and behind -- what they hand on to `run`."""
    if words == ["-l"]:
        return
    assert words[:1] == ["-s"], words
    given = words[words.index("--") + 1 :] if "--" in words else []
    named = words[1 : words.index("--")] if given else words[1:]
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    arguments = {row.session: row.arguments() for row in rows()}
    for name in named:
        assert name in arguments or re.search(rf"^def {re.escape(name)}\(session: nox\.Session\)", noxfile, re.MULTILINE), name
        if name in arguments and given:
            _validation([*arguments[name], *given], possible)

"""What a text is that a recipe is read from, told by its content: prose, a program, a script, or flags. Nothing is run."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from validation.recipe.words import Word


class Kind(enum.Enum):
    """What a text is that is no prose."""

    PYTHON = "python"
    SHELL = "shell"
    FLAGS = "flags"
    OTHER = "other"


_PYTHON = re.compile(r"(import [\w.]+( as \w+)?(, *[\w.]+)*|from [\w.]+ import .+|(def|class) \w+.*:)\s*(#.*)?")
_SHELL = re.compile(
    r"(if|while|until|case|for) .*|(fi|done|esac|then|do|else)\b.*"
    r"|(source|export|set|cd|exec|eval|declare|local|trap|module) .*|\. \S+|[A-Za-z_]\w*\+?=(?!=)\S.*"
    r"|[\w./-]*(bash|sh|srun|sbatch|mpirun|torchrun|accelerate|deepspeed|python[0-9.]*) .*"
)
"""How a statement of a shell begins, or one that starts a program of training."""
_INSIDE = re.compile(r"\$\(|`|^[A-Za-z_]\w*\+?=\(|^(&&|\|\|?|;|&)$")
"""A word that a shell's language has, and a file of flags has not."""
_WORD = re.compile(r"[(\"'“]*[A-Za-z][A-Za-z’'-]*[)\"'”]*[.,;:!?]*|[0-9]+[.,;:%]|[—–&-]")
_LEAST = 4
"""Words of a line of prose."""
_SHARE = 0.7
"""Of a line of prose, how many of its words are words of a language."""


def is_prose(text: str) -> bool:
    """Whether most lines are sentences, items of a list or rows of a table, as in a README."""
    found = [_reads(line) for line in map(str.strip, text.splitlines()) if line and not line.startswith(("--", "#"))]
    said = [one for one in found if one is not None]
    return not text.startswith("#!") and sum(said) > len(said) / 2


def _reads(line: str) -> bool | None:
    """Whether a line reads as prose; None for a few words, of which nobody can tell."""
    if line.startswith(("| ", "> ", "```", "<!--", "[![")):
        return True
    if sum(char.isalpha() and not char.isascii() for char in line) >= len(line) / 3:
        return True  # of a language whose words have no spaces, or other letters
    words = re.sub(r"^([*+-]|[0-9]+[.)])\s+", "", line).replace("**", "").replace("`", "").split()
    read = sum(_WORD.fullmatch(word) is not None for word in words)
    if len(words) < _LEAST:
        return None if read == len(words) else False
    return read >= _SHARE * len(words) and not words[0].endswith(":") and not _PYTHON.fullmatch(line)


def of(text: str, words: Sequence[Word]) -> Kind:
    """What a text that is no prose is; `words` are its words."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    begun = [line for line in lines if line and not line.startswith("#")]
    first = next((line for line in begun if _PYTHON.fullmatch(line) or _SHELL.fullmatch(line)), "")
    if re.match(r"#!.*\bpython", text) or (not text.startswith("#!") and _PYTHON.fullmatch(first)):
        return Kind.PYTHON
    if text.startswith("#!") or any(_INSIDE.search(word.text) for word in words if not word.is_flag):
        return Kind.SHELL
    statements = [line for line in begun if not line.startswith("-")]
    has_flags = any(word.is_flag for word in words)
    if begun[:1] == statements[:1] and len(statements) > 1 and (has_flags or first):
        return Kind.SHELL
    return Kind.FLAGS if has_flags else Kind.OTHER

"""A file of flags, cut into words as a shell would, without running anything."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from validation.case.errors import UsageError
from validation.recipe.programs import record

SECRET = re.compile(r"--?[a-z_-]*(?:(?:wandb|api|access|secret|auth|hf)[-_](?:key|token)|password)", re.IGNORECASE)
"""Flags whose values are not written down."""
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_LAUNCHERS = ("torchrun", "ft_launcher")
_OTHERS = ("accelerate", "deepspeed", "composer", "horovodrun")
"""Launchers whose options are not known one by one: what they start is the first word that ends in .py."""
_LAUNCHING_MODULES = ("torch.distributed.run", "torch.distributed.launch")
_PYTHON = re.compile(r"(.*/)?python[0-9.]*")
_AROUND = ("nohup", "time", "exec", "command", "timeout", "stdbuf", "nice", "taskset", "setsid", *record.STARTING)
"""Programs that start a launcher."""
_TASKS = re.compile(r"(?<=\s)(?:--ntasks|--?np?)[= ]?([0-9]{1,7})(?=\s)")
_NODES = re.compile(r"(?<=\s)(?:--nodes|-N)[= ]?([0-9]{1,7})(?=\s)")
_EACH = re.compile(r"--ntasks-per-node[= ]([0-9]{1,7})(?=\s)")
"""What srun and mpirun say of ranks."""
_SWITCHES = (
    "--standalone",
    "--no-python",
    "--no_python",
    "-m",
    "--module",
    "--run-path",
    "--use-env",
    "--use_env",
    "--virtual-local-rank",
)
"""Options of torchrun that take no value."""


@dataclass(frozen=True)
class Word:
    """One word, and the file and line where it begins."""

    text: str
    place: str

    @property
    def is_flag(self) -> bool:
        """Whether a parser takes it for a flag: a negative number is a value."""
        return self.text.startswith("-") and len(self.text) > 1 and " " not in self.text and not _is_number(self.text)


@dataclass(frozen=True)
class Command:
    """A command line: variables set for it, the options of the launcher, the program, and the words that the program gets."""

    variables: tuple[tuple[str, str], ...]
    launcher: tuple[Word, ...]
    program: str
    words: tuple[Word, ...]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def cut(text: str, source: str) -> tuple[Word, ...]:
    """The words of a text: quotes and backslashes as in a shell, comments from # to the end of a line. Raises UsageError."""
    return tuple(Word(word, f"{source}:{line}") for word, line in _cut(text, source))


def _cut(text: str, source: str) -> Iterator[tuple[str, int]]:
    word: list[str] | None = None
    begun, line, place, quote = 1, 1, 0, ""
    while place < len(text):
        char = text[place]
        place += 1
        here, line = line, line + (char == "\n")
        if quote:
            if char == quote:
                quote = ""
            elif char == "\\" and quote == '"' and text[place : place + 1] in ('"', "\\", "$", "`", "\n"):
                line += text[place] == "\n"
                word = [*(word or []), text[place].replace("\n", "")]
                place += 1
            else:
                word = word if word is not None else []
                word.append(char)
            continue
        if char.isspace() or (char == "#" and word is None):
            if word is not None:
                yield "".join(word), begun
            word = None
            if char == "#":
                place = text.find("\n", place) if "\n" in text[place:] else len(text)
            continue
        if char == "\\" and text[place : place + 1] in ("\n", "\r"):
            place += 2 if text[place : place + 2] == "\r\n" else 1
            line += 1
            continue
        if word is None:
            word, begun = [], here
        if char in ("'", '"'):
            quote = char
        elif char == "\\" and place < len(text):
            word.append(text[place])
            place += 1
        else:
            word.append(char)
    if quote:
        raise UsageError(f"{source}, line {begun}: a quote {quote} is not closed; close it")
    if word is not None:
        yield "".join(word), begun


def command(words: Sequence[Word]) -> Command:
    """The parts of a command line; of words that begin with a flag, all are the program's."""
    rest = list(words)
    variables: list[tuple[str, str]] = []
    while rest and (_ASSIGNMENT.match(rest[0].text) or rest[0].text == "env"):
        name, _, value = rest.pop(0).text.partition("=")
        variables += [(name, value)] if name != "env" else []
    around, rest = _around(rest)
    variables += _sizes(around) + [(name, value) for name, _, value in map(_assigned, around) if name]
    if not rest or rest[0].is_flag:
        return Command(tuple(variables), (), "", tuple(rest))
    launcher, rest = _launcher(rest)
    program = rest.pop(0).text if rest and not rest[0].is_flag else ""
    if launcher[-1:] and launcher[-1].text in ("-m", "--module"):
        program = f"-m {program}"
    return Command(tuple(variables), tuple(launcher), program, tuple(rest))


def _around(words: list[Word]) -> tuple[list[Word], list[Word]]:
    """What stands before a launcher, such as `srun -n 8` or `nohup`, and the rest; nothing if no launcher follows."""
    if not words or words[0].text.rpartition("/")[2] not in _AROUND:
        return [], words
    starts = (*_LAUNCHERS, *_OTHERS, "megatron", "swift")
    names = [word.text.rpartition("/")[2] for word in words]
    place = next((place for place, name in enumerate(names) if name in starts or _PYTHON.fullmatch(name)), 0)
    return words[:place], words[place:]


def _assigned(word: Word) -> tuple[str, str, str]:
    return word.text.partition("=") if _ASSIGNMENT.match(word.text) else ("", "", "")


def _sizes(around: Sequence[Word]) -> list[tuple[str, str]]:
    """The number of ranks that srun or mpirun starts, as the variable that says it to a program without a launcher."""
    text = " ".join(["", *(word.text for word in around), ""])
    nodes, each, tasks = (found.search(text) for found in (_NODES, _EACH, _TASKS))
    if tasks:
        return [("WORLD_SIZE", tasks[1])]
    return [("WORLD_SIZE", str(int(nodes[1]) * int(each[1])))] if nodes and each else []


def _launcher(words: list[Word]) -> tuple[list[Word], list[Word]]:
    """The launcher with its options, and what it is to start."""
    name = words[0].text.rsplit("/", 1)[-1]
    if name in _LAUNCHERS:
        return _options(words, 1)
    if name in _OTHERS:
        first = next((place for place, word in enumerate(words) if word.text.endswith(".py")), 1)
        return words[:first], words[first:]
    if not _PYTHON.fullmatch(words[0].text):
        return [], words
    texts = [word.text for word in words]
    module = texts.index("-m") if "-m" in texts else len(texts)
    own = [text for before, text in itertools.pairwise(texts[:module]) if before not in record.OWN_VALUE]
    if all(text.startswith("-") for text in own):
        if texts[module + 1 : module + 2] and texts[module + 1] in _LAUNCHING_MODULES:
            return _options(words, module + 2)
        if module < len(texts):
            return words[: module + 1], words[module + 1 :]
    values = [place + 1 for place, text in enumerate(texts) if text in record.OWN_VALUE]
    places = (place for place, word in enumerate(words[1:], 1) if not word.is_flag and place not in values)
    first = next(places, len(words))
    return words[:first], words[first:]


def _options(words: list[Word], start: int) -> tuple[list[Word], list[Word]]:
    """Where the options of torchrun end: at the first word that is neither one nor its value."""
    place = start
    while place < len(words) and words[place].is_flag:
        if words[place].text == "--":
            return words[:place], words[place + 1 :]
        text = words[place].text
        without = "=" in text or text in _SWITCHES or (place + 1 < len(words) and words[place + 1].is_flag)
        place += 1 if without else 2
    return words[:place], words[place:]

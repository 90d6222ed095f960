"""The words of a layout: degrees, and options of a step."""

from __future__ import annotations

from docs.made.tables import code, table
from validation.case.training import OPTIONS, STREAM, WORDS, option
from validation.run.command_line import DEGREE_HELP, OPTION_HELP


def degrees() -> str:
    """The parallel degrees, as they are joined in a layout's name."""
    rows = ((code(f"{name}2"), code(f"--{name} 2"), does) for name, does in DEGREE_HELP.items())
    return table(("degree", "option", "meaning"), rows)


def step() -> str:
    """Each option of a step with its values, and the word that stands for one behind a layout."""
    word = {told: f"+{name}" for name, told in WORDS.items()}
    rows = [
        (code(option(name)), code(value), code(word.get((name, value), "")), OPTION_HELP[name] if value == values[0] else "")
        for name, values in OPTIONS.items()
        for value in values
    ]
    rows.append((code(f"--{STREAM}"), "", code(f"+{STREAM}"), "compute both models layer by layer: the memory of one layer"))
    return table(("option", "value, the default first", "word", "meaning"), rows)

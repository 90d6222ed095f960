"""What became of the settings of each recipe: the word of each, and why it is no better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ci.coverage import by_recipe
from ci.page.run import Run
from ci.page.text import scrolled, text
from validation.case.covered import EQUAL, WORDS, Word, counts, share

_MEANS = (
    "Equal: it had an effect on what Megatron-Core does, and every check passed. "
    "Different: a check failed, or a known upstream bug of this setting showed. "
    "The other words say that it was not compared, and why."
)


def recipe(run: Run) -> str:
    """A section for each recipe; nothing where no case is of one."""
    found = by_recipe(run.cases)
    return "".join(_section(number, name, words) for number, ((_, name), words) in enumerate(found.items(), start=1))


def _section(number: int, name: str, words: Mapping[str, Word]) -> str:
    equal = [(setting, word) for setting, word in words.items() if word.word == EQUAL]
    rest = [(setting, word) for setting, word in words.items() if word.word != EQUAL]
    rest.sort(key=lambda one: (WORDS.index(one[1].word), one[1].why, one[0]))
    shown = _table(f"Settings of {name} that are not equal", rest) if rest else ""
    if equal:
        items = "".join(f"<li><code>{text(setting)}</code></li>" for setting, _ in equal)
        shown += f"<details><summary>{len(equal):,} equal</summary><ul>{items}</ul></details>"
    if not words:
        return _headed(number, name, "<p>It sets nothing beside what every case of Plumbline's has.</p>")
    counted = escape(counts(word.word for word in words.values()))
    said = f"{len(equal):,} of {len(words):,} settings are equal ({share(words):.0%}): {counted}."
    return _headed(number, name, f'<p>{said}</p><p class="quiet">{_MEANS}</p>{shown}')


def _headed(number: int, name: str, content: str) -> str:
    return (
        f'<section class="recipe" aria-labelledby="recipe-{number}"><h2 id="recipe-{number}">Recipe {text(name)}</h2>'
        f"{content}</section>\n"
    )


def _table(caption: str, rows: Sequence[tuple[str, Word]]) -> str:
    head = "".join(f'<th scope="col">{words}</th>' for words in ("Setting", "What became of it", "Why"))
    table = (
        f'<table class="plain-table"><caption class="hidden">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(_row(setting, word) for setting, word in rows)}</tbody></table>"
    )
    return scrolled(table, caption)


def _row(setting: str, word: Word) -> str:
    return (
        f'<tr><th scope="row"><code>{text(setting)}</code></th><td>{escape(word.word)}</td>'
        f'<td class="why">{text(word.why)}</td></tr>'
    )

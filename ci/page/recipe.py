"""What became of the settings of each recipe: the word of each, and why it is no better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ci.coverage import by_recipe
from ci.page.run import Run
from ci.page.text import scrolled, text
from validation.case.covered import DIFFERENT, EQUAL, NEEDED, NOT_COMPARED, NOT_EXERCISED, Word, counts, not_compared, share
from validation.case.plural import many

_MEANS = (
    "Equal: it had an effect on what Megatron-Core does, and every check passed. "
    "Different: a check failed, or a known upstream bug of this setting showed. "
    "The other words say that it was not compared, and why."
)


_TOLD = (DIFFERENT, NOT_COMPARED, NOT_EXERCISED, NEEDED)
"""What is not equal, the word that matters most first."""


def recipes_in_short(run: Run) -> str:
    """A sentence on each recipe, for the top of the page: a pass is of those settings alone that were compared."""
    found = by_recipe(run.cases)
    return "".join(_in_short(number, name, words) for number, ((_, name), words) in enumerate(found.items(), start=1) if words)


def _in_short(number: int, name: str, words: Mapping[str, Word]) -> str:
    count = {word: sum(one.word == word for one in words.values()) for word in (EQUAL, *_TOLD)}
    said = (
        f"{count[EQUAL]:,} of its {many(len(words), 'setting', spec=',')} "
        f"{'computes' if count[EQUAL] == 1 else 'compute'} what HuggingFace computes"
    )
    said += f", {count[DIFFERENT]:,} {'does' if count[DIFFERENT] == 1 else 'do'} not" if count[DIFFERENT] else ""
    untried = count[NOT_EXERCISED] + count[NEEDED]
    said += f", {untried:,} could not be tried here" if untried else ""
    others = f", and {count[NOT_COMPARED]:,} cannot be compared" if count[NOT_COMPARED] else ""
    others += f": the verdict is not of the recipe itself, {text(not_compared(words))}" if others else ""
    return f'<p>Recipe <a href="#recipe-{number}">{text(name)}</a>: {said}{others}.</p>'


def recipe(run: Run) -> str:
    """A section for each recipe; nothing where no case is of one."""
    found = by_recipe(run.cases)
    return "".join(_section(number, name, words) for number, ((_, name), words) in enumerate(found.items(), start=1))


def _section(number: int, name: str, words: Mapping[str, Word]) -> str:
    equal = [(setting, word) for setting, word in words.items() if word.word == EQUAL]
    rest = [(setting, word) for setting, word in words.items() if word.word != EQUAL]
    rest.sort(key=lambda one: (_TOLD.index(one[1].word), one[1].why, one[0]))
    shown = _table(f"Settings of {name} that are not equal", rest) if rest else ""
    if equal:
        items = "".join(f"<li><code>{text(setting)}</code></li>" for setting, _ in equal)
        shown += f"<details><summary>{len(equal):,} equal</summary><ul>{items}</ul></details>"
    if not words:
        return _headed(number, name, "<p>It sets nothing beside what every case of Plumbline's has.</p>")
    counted = escape(counts(word.word for word in words.values()))
    said = (
        f"{len(equal):,} of {many(len(words), 'setting', spec=',')} {'is' if len(equal) == 1 else 'are'} equal "
        f"({share(words):.0%}): {counted}."
    )
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

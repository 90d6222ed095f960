"""docs/words-in-failures.md explains every sentence that a failure can say; the code says which those are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.markdown import DOCS, ROOT, anchors
from validation.case.words import PAGE, WORDS, words_in

TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "validation/candidate/arithmetic.py": (),
    "validation/candidate/compare.py": (),
    "validation/candidate/dispatched.py": (),
    "validation/candidate/load.py": (),
    "validation/candidate/own_steps.py": (),
    "validation/candidate/recorder.py": (),
    "validation/case/axes.py": (),
    "validation/checks/inferring.py": ("*, all of them HuggingFace's",),
    "validation/checks/inference_statements.py": ("HuggingFace Cached and Full Logits",),
    "validation/checks/again.py": (),
    "validation/checks/judging.py": (),
    "validation/checks/limiting.py": ("the reference has no floor for *; give the check limits of its own",),
    "validation/checks/parity.py": (
        *("Every rank finishes", "Every Megatron tensor set", "Every checkpoint key used"),
        *("*, at most * MiB over the imports*", ", * MiB on a GPU", "none left NaN", ", * set aside: *"),
        "* is not a probe of this case; known are *",
    ),
    "validation/checks/planted.py": ("Planted defect seen: *",),
    "validation/compare/choice.py": (),
    "validation/compare/limits.py": (
        "* is no Limits; give Limits(relative_error=1e-10), or nothing for those of the precision",
        *("a relative error of * decides nothing as a limit", "*; give one from 0 to below *"),
        "a largest difference of * decides nothing as a limit; give a number, or None",
    ),
    "validation/compare/pattern.py": (),
    "validation/compare/verdict.py": (
        "*, near-ties: * of *",
        "rank * *: Max diff: * at *, relative *, bytes *",
    ),
    "validation/run/launch.py": (),
}
"""Module whose sentences reach a failure -> those that do not: titles of checks, what stands behind a pass or below --debug,
and what a writer of checks is told."""


def sections() -> dict[str, list[str]]:
    """Heading of a word -> the lines of code below it, as a failure prints them."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        found[heading] = re.findall(r"^`(.+)`$", body, re.MULTILINE)
    return found


SECTIONS = sections()


def sentences(source: str) -> Iterator[str]:
    """Every text of several words that a module can say, with * for what it fills in. Docstrings are none."""
    tree = ast.parse(source)
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    # Words that are counted are a part of the sentence around them.
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    silent |= {id(word) for call in calls if isinstance(call.func, ast.Name) and call.func.id == "many" for word in call.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in node.values}
            said = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            said = node.value
        else:
            continue
        if " " in said and len(re.findall("[A-Za-z]{2,}", said)) > 1:
            yield said


def explained(sentence: str) -> bool:
    """Whether a line of code on the page shows it."""
    template = ".*".join(map(re.escape, sentence.split("*")))
    return any(re.search(template, line) for lines in SECTIONS.values() for line in lines)


@pytest.mark.parametrize("module", ELSEWHERE)
def test_every_sentence_of_a_failure_is_shown_on_the_page(module: str) -> None:
    """Whoever writes a new one is told to add it: a heading, the sentence as it is printed, and what to suspect."""
    said = set(sentences((ROOT / module).read_text(encoding="utf-8")))
    assert sorted(said - {one for one in said if explained(one)} - set(ELSEWHERE[module])) == []
    assert set(ELSEWHERE[module]) <= said, "what is listed as said elsewhere is not said any more"


def test_the_headings_are_the_words_in_their_order() -> None:
    assert list(SECTIONS) == [word.name for word in WORDS]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.anchor)
def test_a_word_is_found_in_every_example_and_has_an_anchor_and_a_text(word: object) -> None:
    assert isinstance(word, type(WORDS[0]))
    assert word.anchor in anchors(TEXT)
    lines = SECTIONS[word.name]
    assert lines, "no line as it is printed"
    assert [line for line in lines if word not in words_in(line)] == []
    body = re.split(r"^#+ ", TEXT.partition(f"\n### {word.name}\n")[2], flags=re.MULTILINE)[0]
    prose = re.sub(r"^`.*`$", "", body, flags=re.MULTILINE).replace("`.", "`").strip()
    assert 2 <= len(re.findall(r"[.?!](?:\s|$)", prose)) <= 6, "two to six plain sentences"


@pytest.mark.parametrize(
    ("message", "names"),
    [
        ("", []),
        ("FAIL: Layer 0 Value - relative error 7.13e-01 > 1e-10; scaled by 0.49", ["relative error", "scaled by"]),
        ("a model without failures", []),
        ("sharding: off by 7.1e-01 from the same model on one rank", ["sharding"]),
        ("on one rank: modelling; and more", ["modelling"]),
        ("pattern: head 2 only, rotary dimensions only", ["heads only", "rotary dimensions only"]),
        ("rank 1 only (tp 1)", ["ranks only"]),
        ("worst at [1] on rank 1; only one", ["worst at"]),
        ("ERROR: Every rank finishes - rank 0 raised ValueError: 1", ["raised"]),
        ("scaled by 2\nKNOWN: a - b\nnot evaluated: c", ["KNOWN", "NOT EVALUATED", "scaled by"]),
    ],
)
def test_words_are_found_in_a_message(message: str, names: list[str]) -> None:
    assert [word.name for word in words_in(message)] == names


def test_a_sentence_that_is_not_on_the_page_is_seen() -> None:
    found = list(sentences('"""A doc string."""\nx = f"the {y} of {z}"\nlimit = "some new words"\nkey = "a/b.c"\n'))
    assert found == ["the * of *", "some new words"]
    assert not explained("some new words")
    assert explained("scaled by *")

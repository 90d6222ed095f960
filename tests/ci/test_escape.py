"""Text out of results is harmless where it is shown. tests/ci/test_hostile.py looks at whole reports; here is each rule."""

from __future__ import annotations

import pytest

from ci.escape import LONGEST, annotation, block, entities, markdown, plain, prose


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Layer 0 Query", "Layer 0 Query"),
        ("前向传播 ∥d∥/∥r∥ ≤ 1e-10", "前向传播 ∥d∥/∥r∥ ≤ 1e-10"),
        ("a\nb\r\nc\td", "a b c d"),
        ("a\x00b\x1b[31m", "a\ufffdb\ufffd[31m"),
        ("a\u202eb\u200bc", "a\ufffdb\ufffdc"),
        ("\ud800", "\ufffd"),
        ("::error::a", ": :error::a"),
        (" \u3000::error::a", ": :error::a"),
        ("test_mla.py::test_query", "test_mla.py::test_query"),
        ("a ##[error]b", "a # #[error]b"),
        ("a" * LONGEST, "a" * LONGEST),
        ("a" * (LONGEST + 1), "a" * (LONGEST - 1) + "…"),
        ("", ""),
    ],
)
def test_a_line_is_one_line_of_characters_that_are_seen(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_text_behind_much_white_space_is_cut_and_said_to_be() -> None:
    assert plain("a" + " " * 10_000 + "b") == "a…"


def test_punctuation_is_written_as_numbers() -> None:
    assert markdown("a|b <c> [d](e)") == "<code>a&#124;b &#60;c&#62; &#91;d&#93;&#40;e&#41;</code>"
    assert markdown("`f` *g* _h_ www.i @k #1") == ("<code>&#96;f&#96; &#42;g&#42; &#95;h&#95; www&#46;i &#64;k &#35;1</code>")


def test_what_is_no_markup_stays_readable() -> None:
    assert entities("Layer 0 Query, 50 % = 1/2; 前向") == "Layer 0 Query, 50 % = 1/2; 前向"


@pytest.mark.parametrize(("text", "fence"), [("a", "```"), ("a ``` b", "````"), ("`````", "``````")])
def test_a_block_s_fence_is_longer_than_any_within(text: str, fence: str) -> None:
    assert block(text) == f"{fence}sh\n{text}\n{fence}\n"


def test_an_annotation_says_percent_colon_and_comma_as_the_runner_reads_them() -> None:
    assert annotation("error", "a: b, c", "50 %\n::d") == "::error title=a%3A b%2C c::50 %25 ::d"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("tp2, tp4: 1.5", "tp2, tp4&#58; 1&#46;5"),
        ("@everyone", "&#64;&#8203;everyone"),
        ("see #1", "see &#35;&#8203;1"),
        ("GH-1 gh-2", "GH&#8203;-1 gh&#8203;-2"),
    ],
)
def test_prose_is_no_markup_and_mentions_nobody(said: str, shown: str) -> None:
    assert prose(said) == shown


def test_prose_is_cut_as_any_text_is() -> None:
    """Where nobody says otherwise, after the same number of characters."""
    assert prose("a" * 5, 4) == "aaa&#8230;"
    assert prose("a" * (LONGEST + 1)) == "a" * (LONGEST - 1) + "&#8230;"


def test_a_block_is_of_the_language_that_is_named() -> None:
    assert block("a", "text") == "```text\na\n```\n"

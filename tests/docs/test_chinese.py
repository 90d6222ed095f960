"""The Chinese pages: each has an English page that says the same, and they link to each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, ROOT, links, prose

PAGES = sorted(page for page in (DOCS / "zh").glob("*.md") if page.stem != "index")


def blocks(page: Path) -> list[str]:
    """The code of a page, without comments, which are translated."""
    found = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [re.sub(r" *#.*", "", block) for block in found]


def headings(page: Path) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", page.read_text(encoding="utf-8"), re.MULTILINE)]


def printed(page: Path) -> list[str]:
    """What is shown as it is printed: lines that are all code, and the words that explain them as headings."""
    text = page.read_text(encoding="utf-8")
    words = re.findall(r"^### .+\n(?=\n`.+`$)", text, re.MULTILINE)
    return words + re.findall(r"^`[^`]+`$", text, re.MULTILINE)


def facts(page: Path) -> set[str]:
    """Code in a sentence, and numbers but for those that a language writes with words of its own: 671 billion is 6710 亿."""
    text = re.sub(r"^```.*?^```|\]\([^)]*\)", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    code = {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}
    return code | set(re.findall(r"(?<![\w.])\d[\d.,]*\d(?!\.?\d|\w| B\b| billion)", text))


def table_rows(page: Path) -> int:
    return len(re.findall(r"^\|", page.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_most_important_pages_are_there() -> None:
    assert {page.stem for page in PAGES} >= {"quick-start", "first-red-check", "words-in-failures", "troubleshooting", "gpus"}


def items(page: Path) -> list[str]:
    """The marks of the items of all lists."""
    return re.findall(r"^(?:-|\d+\.) ", page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_the_english_one_says(page: Path) -> None:
    """As far as it can be seen: the same code, sections and rows. If this fails, one of the two was changed alone."""
    english = DOCS / page.name
    assert blocks(page) == blocks(english)
    assert headings(page) == headings(english)
    assert items(page) == items(english)
    assert printed(page) == printed(english)
    assert facts(english) - facts(page) == set()
    assert table_rows(page) == table_rows(english)


@pytest.mark.parametrize("page", [*PAGES, DOCS / "zh" / "index.md"], ids=lambda page: page.stem)
def test_both_pages_link_to_each_other_at_the_top(page: Path) -> None:
    english = DOCS / page.name
    assert page.read_text(encoding="utf-8").split("\n\n")[1] == f"[English](../{page.name})"
    assert english.read_text(encoding="utf-8").split("\n\n")[1] == f"[中文](zh/{page.name})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_in_chinese(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    assert len(re.findall("[\u4e00-\u9fff]", text)) > 300
    assert not re.search(r"[\u4e00-\u9fff] ?[,;!?]", text), "Chinese sentences have Chinese punctuation"


@pytest.mark.parametrize("page", [*PAGES, DOCS / "zh" / "index.md", ROOT / "README.zh-CN.md"], ids=lambda page: page.stem)
def test_comments_are_translated_and_one_thing_has_one_word(page: Path) -> None:
    """But for a comment that names a file. 目录 is a folder, 缺陷 a bug, 配方 a recipe."""
    text = page.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert [said for said in re.findall(r"(?<= )# (.+)$", code, re.MULTILINE) if not re.search("[\u4e00-\u9fff]", said)] == []
    assert re.findall("文件夹|训练配置|[\u4e00-\u9fff] ?bug", text) == []


@pytest.mark.parametrize("page", [*PAGES, DOCS / "zh" / "index.md", ROOT / "README.zh-CN.md"], ids=lambda page: page.stem)
def test_a_link_leads_to_the_chinese_page_if_there_is_one(page: Path) -> None:
    """But for the one at the top, which leads to the same page in English."""
    _, _, text = page.read_text(encoding="utf-8").partition("[English](")
    leads = {(page.parent / link.partition("#")[0]).resolve() for link in links(text)}
    assert leads & {DOCS / other.name for other in PAGES} == set()

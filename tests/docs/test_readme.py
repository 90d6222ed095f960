"""README in both languages: short, equal, and what it claims is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import CHINESE, README, blocks, commands, rows, sentences
from tests.docs.markdown import DOCS, links, pages
from tests.docs.test_guides import read, scored

BOTH = pytest.mark.parametrize("readme", [README, CHINESE], ids=lambda path: path.name)
MOST = 8192
"""Bytes."""


@BOTH
def test_it_is_short(readme: Path) -> None:
    """Whoever opens it reads it in two minutes."""
    assert len(readme.read_bytes()) <= MOST


@BOTH
def test_it_begins_with_one_sentence_and_one_picture(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    head = text.partition("\n## ")[0].split("\n\n")
    assert head[0] == "# Plumbline"
    assert len(re.findall(r"[.。](?:\s|$)", head[2])) == 1
    assert head[3].startswith("![")
    assert text.count("![") == 1


@BOTH
def test_every_command_is_one(readme: Path, reader: None) -> None:
    found = list(commands(readme))
    assert len(found) > 5
    for words in found:
        read(words)


@BOTH
def test_the_main_commands_are_those_that_ci_runs(readme: Path) -> None:
    """In a clean clone: .ci/run."""
    said = [words for words in commands(readme) if words[0] == "nox"]
    assert said[:2] == [["nox", "-s", "parity"], ["nox", "-s", "tests"]]


@BOTH
def test_the_three_numbers_are_those_that_were_measured(readme: Path) -> None:
    figures = scored()
    text = readme.read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| (\d+ / \d+) \| (\d+ / \d+) \| (\d+ / \d+) \|$", text, re.MULTILINE)
    assert list(row) == [
        f"{figures.caught} / {figures.faults}",
        f"{figures.localised} / {figures.faults}",
        f"{figures.alarms} / {figures.cases}",
    ]
    section = text[text.index("\n## ", text.index("parity.yml")) :].partition("\n| ")[0]
    assert str(figures.faults) in section
    assert str(figures.by_logits) in text
    table = rows(readme, "measured" if readme == README else "实测")
    numbers = [set(map(int, re.findall(r"(?<![\w.-])\d+(?![\w-])", row[1]))) for row in table]
    assert numbers[:2] == [{figures.faults, figures.caught, figures.by_logits}, {figures.alarms, figures.cases}]
    below = text.partition("\n## ")[2]
    assert all(re.search(rf"\b{number} (?:s|秒)", below) for (number,) in numbers[2:])


@BOTH
def test_the_releases_are_those_of_the_guide(readme: Path) -> None:
    listed = {row[0]: row[1] for row in rows(DOCS / "fork.md", "package")}
    said = dict(re.findall(r"^\| (megatron-core|transformers) \| ([^\[|]*)", readme.read_text(encoding="utf-8"), re.MULTILINE))
    for package, releases in listed.items():
        assert re.findall(r"\d[\d.]*\d", said[package]) == re.findall(r"\d[\d.]*\d", releases)


def test_both_say_the_same() -> None:
    """Blocks, links, pictures and tables, in the same order; words are for whoever changes one of them to compare."""
    english, chinese = (shape(path) for path in (README, CHINESE))
    assert english == chinese


def shape(readme: Path) -> list[str]:
    """What does not depend on the language, section by section."""
    found: list[str] = []
    for section in re.split(r"^## ", readme.read_text(encoding="utf-8"), flags=re.MULTILINE):
        code, prose = re.findall(_BLOCK, section), re.sub(_BLOCK, "", section)
        found += ["section", *(re.sub(r" +#.*$", "", block, flags=re.MULTILINE) for block in code)]
        found += sorted(link.replace("docs/zh/", "docs/") for link in links(section) if not link.startswith("README"))
        found += sorted(set(re.findall(r"`([^`\n]+)`", prose)))
        found += [str(line.count("|")) for line in section.splitlines() if line.startswith("|")]
        found += [str(len(section.partition("\n")[2].strip().split("\n\n")))]
    return found


_BLOCK = re.compile(r"```\w*\n.*?```", re.DOTALL)


def test_a_difference_between_both_is_seen(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    for wrong in (
        text.replace("docs/gate.md", "docs/gpus.md"),
        text.replace("--tp 2", "--tp 4", 1),
        text.replace("| `sharding` |", "| sharding |"),
        text.replace("\n| CI |", "\n| CI | |"),
        text + "\nOne more paragraph.\n",
    ):
        (tmp_path / "README.md").write_text(wrong, encoding="utf-8")
        assert shape(tmp_path / "README.md") != shape(README)


def test_sentences_are_short() -> None:
    assert [one for one in sentences(README) if len(one.split()) > 30] == []


@BOTH
def test_nothing_of_the_old_guide_is_in_it(readme: Path) -> None:
    """It has a page, which both link to."""
    assert "test_mla_moe_correctness" not in readme.read_text(encoding="utf-8")
    assert "docs/old-guide.md" in set(links(readme.read_text(encoding="utf-8")))


def test_no_page_links_to_a_section_that_has_moved() -> None:
    """README has few sections; what they hold stands in the pages."""
    linked = {page.name: set(links(page.read_text(encoding="utf-8"))) for page in pages()}
    assert [
        name for name, found in linked.items() if any(re.match(r"(\.\./)*README(\.zh-CN)?\.md#", one) for one in found)
    ] == []


@BOTH
def test_the_workflow_is_short(readme: Path) -> None:
    (workflow,) = blocks(readme, "yaml")
    assert len(workflow.splitlines()) <= 12

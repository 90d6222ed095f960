"""The pages: each is reached from the index, and every link between them leads somewhere, on GitHub and on the site."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.built import build
from tests.docs.markdown import DOCS, ROOT, anchors, links, pages

INDEX = "- [Name](page.md): what it says"


def listed(page: Path) -> set[Path]:
    """The pages that the site shows below an index page: each item or row of it that begins with a link."""
    found: set[Path] = set()
    for target in re.findall(r"^(?:- |\| )\[[^\]]+\]\(([^)#:]+\.md)\)", page.read_text(encoding="utf-8"), re.MULTILINE):
        below = (page.parent / target).resolve()
        found |= {below} if below.stem not in ("index", "README") else {below} | listed(below)
    return found


def test_every_page_is_in_the_index() -> None:
    """One that is not would be on the site and in no menu."""
    missing = [str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob("*.md")) if path not in listed(DOCS / "index.md")]
    missing.remove("index.md")
    assert missing == [], f"add a line to docs/index.md (or zh/index.md, findings/README.md): {INDEX}"


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for link in links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        known = anchors(target.read_text(encoding="utf-8")) if target.suffix == ".md" and target.exists() else {anchor}
        if not target.exists() or (anchor and anchor not in known):
            yield link


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Files and anchors, in the README, too; addresses of other sites are asked for by `nox -s docs -- --links`."""
    assert list(broken(page)) == []


@pytest.mark.parametrize("page", [page for page in pages() if page.is_relative_to(DOCS)], ids=lambda page: page.name)
def test_a_link_from_the_documentation_to_a_folder_names_its_page(page: Path) -> None:
    """GitHub shows a folder, the site has none."""
    targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page.read_text(encoding="utf-8"))]
    assert [target for target in targets if target.is_dir() and target != page.parent] == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One thing: `x`\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n", encoding="utf-8")
    page = tmp_path / "a.md"
    right = "[a](b.md) [b](b.md#one-thing-x) [c](b.md#twice-1) [d](https://example.org/#x) `[e](f.md)`\n"
    page.write_text(right, encoding="utf-8")
    assert list(broken(page)) == []
    page.write_text(f"{right}[a](c.md) [b](b.md#no-heading) [c](b.md#twice-2) [d](#here)\n", encoding="utf-8")
    assert list(broken(page)) == ["c.md", "b.md#no-heading", "b.md#twice-2", "#here"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A site of two pages, made as ours is."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("conf.py", "_ext", "_static"):
        copy = shutil.copytree if (DOCS / name).is_dir() else shutil.copyfile
        copy(DOCS / name, docs / name)
    (docs / "index.md").write_text("# Site\n\n## Start\n\n- [A short name](page.md): says\n", encoding="utf-8")
    (docs / "page.md").write_text("# A long title\n\n## A part\n\n张量并行\n\n[file](../file.py)\n", encoding="utf-8")
    (tmp_path / "file.py").write_text("", encoding="utf-8")
    return docs


def test_a_sound_site_is_built_and_its_menu_has_the_names_of_the_index(small: Path, tmp_path: Path) -> None:
    done = build(small, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<a class="reference internal" href="page.html">A short name</a>', text)
    index = (tmp_path / "out" / "searchindex.js").read_text(encoding="utf-8")
    terms = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))["terms"]
    assert {"张量", "量并", "并行"} <= set(terms), "any two characters in a row can be searched for"


MISTAKES = [
    ("index.md", "[x](page.md#no-part)", "no-part"),
    ("index.md", "[x](nowhere.md)", "nowhere.md"),
    ("page.md", "[x](#no-own-part)", "no-own-part"),
    ("page.md", "[x](../nothing.py)", "nothing.py"),
    ("other.md", "# In no menu", "toctree"),
]


def test_each_mistake_fails_the_build(small: Path, tmp_path: Path) -> None:
    """One build sees them all: each is a warning of its page, and a warning fails it."""
    for page, wrong, _ in MISTAKES:
        with (small / page).open("a", encoding="utf-8") as file:
            file.write(f"\n{wrong}\n")
    done = build(small, tmp_path / "out")
    assert done.returncode == 1
    for page, _, said in MISTAKES:
        assert re.search(rf"^\S*/{page}\b.*: WARNING: .*{said}", done.stderr, re.MULTILINE), done.stderr

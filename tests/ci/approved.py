"""Texts that somebody has read and approved: tests/ci/pages holds them, and any difference fails.

`PLUMBLINE_APPROVE=1 python -m pytest tests/ci -k approved` writes them again. Read the diff before you commit it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path

import pytest

from ci.page import document

_APPROVES = bool(os.environ.get("PLUMBLINE_APPROVE"))
"""Asked for at once: tests themselves run without variables of Plumbline."""
FOLDER = Path(__file__).with_name("pages")
_DATA = re.compile(r'(?<=<script id="data" type="application/json">).*?(?=</script>)', re.DOTALL)
_LONG = 300
"""Characters of a part of page.html that is left out."""
_PARTS = {"style": r"(?<=<style>).*?(?=</style>)", "script": r'(?<=<script type="module">).*?(?=</script>)'}


def same_as_approved(name: str, text: str) -> None:
    """Compare a text with the approved one. If PLUMBLINE_APPROVE is set, write it, and skip: nothing was compared."""
    path = FOLDER / name
    if _APPROVES:
        path.write_text(f"{text}\n", encoding="utf-8")
        pytest.skip(f"{name} is written; read its diff")
    found, wanted = text.split("\n"), path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert found == wanted, f"tests/ci/pages/{name} differs"


def document_and_data(page: str) -> str:
    """The page, a tag or a list of its data a line, without style, script and long fixed parts, which are files of their own.

    The policy names both by their digest. A digest that is right becomes a word, so that an edit of the style changes no page.
    """
    for kind, pattern in _PARTS.items():
        part = re.findall(pattern, page, re.DOTALL)[-1]
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        page = page.replace(part, f"(the {kind})").replace(digest, f"(digest of the {kind})")
    page = _DATA.sub(lambda data: re.sub(r'(?<=[\]}]),(?=["\[{])', ",\n ", data[0]), page)
    for fixed in re.split(r"\$[a-z_]+", (Path(document.__file__).with_name("page.html")).read_text(encoding="utf-8")):
        page = page.replace(fixed, "\n(as in page.html)\n") if len(fixed) > _LONG else page
    # A line break of the page itself has no space behind it.
    return page.replace("><", ">\n <")

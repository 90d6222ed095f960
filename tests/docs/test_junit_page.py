"""docs/junit.md says what JUnit files have."""

from __future__ import annotations

import re

from ci.names import classname
from tests.docs.markdown import DOCS, ROOT

TEXT = (DOCS / "junit.md").read_text(encoding="utf-8")


def test_the_class_name_is_one() -> None:
    assert f"`{classname('tiny-tp2-fp64-local-gloo', 'cpu_tp2', 'mla')}`" in TEXT


def test_every_property_that_is_listed_is_written_somewhere() -> None:
    listed = re.findall(
        "`([^`]+)`", "".join(re.findall(r"^(\| `.*?)\|[^|]*\|$", TEXT.partition("## Properties")[2], re.MULTILINE))
    )
    assert len(listed) > 30
    code = "".join(path.read_text(encoding="utf-8") for room in ("ci", "validation") for path in (ROOT / room).rglob("*.py"))
    assert [name for name in listed if not re.search(rf"[\"']{re.escape(name)}[\"']|\b{re.escape(name)}=", code)] == []

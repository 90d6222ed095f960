"""Links out of the documentation (`../validation/run/known.yaml`) lead to the repository, if the build knows its address.

On GitHub's machines it does. Elsewhere the site has a copy of the file. A file that is not there is an error in both.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

_OUTWARD = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _rewrite(app: Any, page: str, source: list[str]) -> None:
    base, docs = address(app.config.html_theme_options), Path(app.srcdir).resolve()

    def outward(link: re.Match[str]) -> str:
        target = (docs / page).parent.joinpath(link[1]).resolve()
        if target.is_relative_to(docs):
            return link[0]
        if not target.is_file() or not target.is_relative_to(docs.parent):
            logging.getLogger(__name__).warning("%s is no file of the repository", link[1], location=page)
        if base:
            return f"]({base}/{os.path.relpath(target, docs.parent)}{link[2] or ''})"
        return f"](path:{link[1]})"

    source[0] = _OUTWARD.sub(outward, source[0])


def address(options: dict[str, Any]) -> str:
    """The address below which the repository's files are shown; empty if nobody knows it."""
    repository = options.get("source_repository", "")
    return f"{repository}/blob/{os.environ.get('GITHUB_SHA') or options['source_branch']}" if repository else ""

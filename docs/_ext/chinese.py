"""Chinese in an English site: search that finds it, and the language of its pages.

Sphinx's own search for Chinese cuts pages into words with jieba and leaves the query whole, so that two words in a row find
nothing. Here pages are cut into characters and pairs of characters, and a query into pairs: any run of characters is found
wherever it stands.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.search import languages
from sphinx.search.en import SearchEnglish

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_RUN = re.compile(f"[{_HAN}]+|[^\\W{_HAN}]+")
_IN_BROWSER = """
var splitQuery = (query) =>
  (query.match(/[HAN]+|(?:(?![HAN])[\\p{L}\\p{N}_])+/gu) || []).flatMap((run) =>
    /^[HAN]{2,}$/u.test(run) ? Array.from(run.slice(1), (_, at) => run.slice(at, at + 2)) : [run]
  );
"""


class EnglishAndChinese(SearchEnglish):
    """English words, and pairs of Chinese characters."""

    js_splitter_code = _IN_BROWSER.replace("HAN", _HAN)

    def split(self, input: str) -> list[str]:  # noqa: A002  # Sphinx's name
        """The words of a text, in both languages."""
        return [word for run in _RUN.findall(input) for word in parts(run)]


def parts(run: str) -> list[str]:
    """All characters of a run of Chinese ones, and all pairs of neighbours; a word of other letters as it is."""
    if not re.match(f"[{_HAN}]", run):
        return [run]
    return [*run, *(run[at : at + 2] for at in range(len(run) - 1))]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    languages["en"] = EnglishAndChinese
    app.connect("html-page-context", _language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _language(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    if page.startswith("zh/"):
        context["language"] = "zh-CN"

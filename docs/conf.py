"""The site that `nox -s docs` builds from these pages. They are read on GitHub, too: links are relative, to `.md` files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Plumbline"
copyright = "the Plumbline authors"  # noqa: A001  # Sphinx reads this name
language = "en"
root_doc = "index"
exclude_patterns = ["_ext", "made", "**/__pycache__"]

extensions = ["myst_parser", "toctrees", "source_links", "chinese"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 6  # those that GitHub gives headings, so that `page.md#anchor` works in both places
highlight_language = "none"  # most blocks are commands with their output, which is no language
smartquotes = False  # a word in a failure is shown as it is printed

html_theme = "furo"
html_title = "Plumbline"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_language = "en"
html_copy_source = False
html_show_sphinx = False

linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]  # GitHub makes anchors of lines in the browser

repository = os.environ.get("GITHUB_REPOSITORY", "")
if repository:
    html_theme_options = {
        "source_repository": f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}",
        "source_branch": os.environ.get("GITHUB_REF_NAME", "main"),
        "source_directory": "docs/",
    }

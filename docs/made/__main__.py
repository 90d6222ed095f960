"""`python -m docs.made`: write every block of every page anew."""

from __future__ import annotations

import sys

from docs.made.blocks import current, pages
from validation.case import writing


def main() -> None:
    """Write the pages that are not current."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := current(text)) != text:
            writing.write(page, new)
            sys.stdout.write(f"docs/{page.name} is written\n")


main()

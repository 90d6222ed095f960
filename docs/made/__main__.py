"""`python -m docs.made`: write every block of every page anew."""

from __future__ import annotations

import sys

from docs.made.blocks import current, pages


def main() -> None:
    """Write the pages that are not current."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := current(text)) != text:
            page.write_text(new, encoding="utf-8")
            sys.stdout.write(f"docs/{page.name} is written\n")


main()

"""The report that people open: one HTML file made from the JUnit files of a run, which needs no network and no server."""

from ci.page.command import add_options, main

__all__ = ["add_options", "main"]

"""`python -m ci manifest` in a scenario: what it wrote of every session once, without those that are not asked for."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from ci.expected import load, save
from ci.manifest import add_options
from ci.table import rows


def main() -> None:
    """The options are the command's own."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(sys.argv[4:])
    path, call = Path(os.environ["EVERYTHING"]), os.environ.get("PLUMBLINE_NAME")
    everything = load(path.with_name(f"{call}.json") if call else path)
    asked = options.sessions or [row.session for row in rows() if options.event in row.when]
    suites = tuple(suite for suite in everything.suites if suite.session in asked)
    self_tests = {session: file for session, file in everything.self_tests.items() if session in asked}
    save(Path(options.output), replace(everything, suites=suites, self_tests=self_tests))


if __name__ == "__main__":
    main()

"""A parser whose refusal keeps its sentence: whoever asked for JSON is told in JSON what is wrong with the words."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from validation.case.errors import ExitCode


class Refused(SystemExit):
    """Wrong usage, with argparse's exit code, which is ours."""

    def __init__(self, sentence: str) -> None:
        super().__init__(int(ExitCode.USAGE))
        self.sentence = sentence


class Parser(argparse.ArgumentParser):
    """argparse's, and so are those of its commands."""

    def error(self, message: str) -> NoReturn:
        """End with the usage and the message. Raises Refused."""
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        raise Refused(message)

"""`python -m ci permit`: whether a job that waits for an environment has really waited for a person.

GitHub makes an environment that does not exist when a job names it, and one without rules lets everybody through.
"""

from __future__ import annotations

import argparse
import sys

from ci.github import ask
from validation.case.errors import ExitCode


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--environment", required=True, metavar="NAME", help="the environment that the job names")


def main(options: argparse.Namespace) -> int:
    """0 where somebody had to approve, 1 where nobody had to."""
    found = ask("environments", options.environment)
    if _reviewed(found):
        sys.stdout.write(f"Somebody has approved: environment {options.environment} asks for a reviewer.\n")
        return int(ExitCode.PASS)
    sys.stdout.write(
        f"red: environment {options.environment} asks nobody: give it required reviewers (Settings, Environments; "
        "docs/security.md), then run this again\n"
    )
    return int(ExitCode.FAIL)


def _reviewed(environment: object) -> bool:
    """Whether the environment's rules ask for at least one reviewer."""
    rules = environment.get("protection_rules") if isinstance(environment, dict) else None
    reviews = [rule for rule in rules or [] if isinstance(rule, dict) and rule.get("type") == "required_reviewers"]
    return any(rule.get("reviewers") for rule in reviews)

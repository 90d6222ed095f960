"""The options of `recipe`, as they are declared. Imports no package: the doctor runs without any."""

from __future__ import annotations

from typing import Any

from validation.case import tree
from validation.case.empty import given_path
from validation.recipe import parser

USAGE = f"{tree.VALIDATION} recipe capture [-o FILE] [--call N] [--timeout S] -- COMMAND ..."


def add_command(commands: Any, formatter_class: Any) -> None:
    """Add `recipe` with its two commands to those of `python -m validation`."""
    recipe = commands.add_parser("recipe", help="what a launch script trains", formatter_class=formatter_class)
    two = recipe.add_subparsers(dest="recipe_command", required=True, metavar="command")
    shown = two.add_parser("show", help="what a file says: model, layout, settings, and the flags that are not known")
    shown.add_argument("file", type=given_path, metavar="FILE", help="flags, model_config.yaml, or Megatron-Bridge's YAML")
    shown.add_argument("--release", choices=parser.releases(), help="whose defaults count if a flag is not given")
    shown.add_argument(
        "--megatron-path", type=given_path, metavar="DIR", help="a checkout of Megatron-LM, whose parser reads the flags"
    )
    shown.add_argument("--world-size", type=int, metavar="N", help="how many ranks train, if the file does not say it")
    taken = two.add_parser("capture", help="run a launch script with stand-ins for what would train", usage=USAGE)
    taken.add_argument(
        "-o", "--output", type=given_path, metavar="FILE", help="write the flags here (default: standard output)"
    )
    taken.add_argument("--call", type=int, metavar="N", help="which one, if the script starts several trainings")
    taken.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds for the script (default 120)")

"""A plugin whose second rank leaves a word, when its model is built, and never goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def plugin(argument: str) -> type[Any]:
    """`argument` is the file that says that the rank hangs."""

    class Hanging:
        """What the ranks call."""

        @staticmethod
        def built(case: Any, model: Any) -> None:
            if os.environ["RANK"] == "1":
                Path(argument).touch()
                while True:
                    time.sleep(60)

    return Hanging

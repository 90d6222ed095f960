"""What is running now: one line that is written over in a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from validation.case.case import Case


class ProgressLine:
    """Shows which case is at which step."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown = False

    def show(self, case: Case, step: str) -> None:
        """Called from another thread than the one that prints checks, which waits meanwhile."""
        if not step:
            return
        writer: Any = self._config.get_terminal_writer()
        line = f"{case.preset} / {case.layout.name}: {step} ..."
        if writer.hasmarkup:
            writer.write(f"\r\x1b[2K{line}", flush=True)
            self._shown = True
        else:
            writer.line(line)

    def clear(self) -> None:
        """Take the line away before something is printed in its place."""
        if self._shown:
            self._config.get_terminal_writer().write("\r\x1b[2K", flush=True)
            self._shown = False

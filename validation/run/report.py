"""What a rank leaves behind: its findings, or how it died. Files in the run's folder, so that they outlive the rank."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any

from validation import checkout
from validation.case.errors import ExitCode
from validation.run import absent
from validation.run.cause import exit_code

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


READY, REFERENCE, TURN = "ready", "reference", "turn"
"""What ranks say that wait for their turn, the file that tells them of their reference, and that which gives them the turn."""
STAYS = "stays"
"""The kind of the file that says that a reference's truth stays on the GPU that computes it."""
_LOOKING = 0.005
"""Seconds between two looks at whether a rank's turn has come."""
_TO_LEAVE_A_WORD = 3
"""Files that are kept open for a rank that can open no more, to say that (its source is read for the stack)."""


def _die_with_whoever_started_it() -> None:
    """End this rank when the process that runs the command is killed: the fork server lives as long as any of its ranks."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class Ended(Exception):
    """Somebody ended the rank by what is no error: an interrupt, sys.exit."""


class RankReport:
    """The files of one rank: `rank-0.json` (findings), `.error` (what it raised), `.stacks`, `.pid`, `progress` and `times`."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self.rank = folder, rank

    def path(self, kind: str) -> Path:
        """The file of one kind."""
        return self._folder / f"rank-{self.rank}.{kind}"

    def shared(self, name: str) -> Path:
        """A place that all ranks of the run share."""
        return self._folder / name

    def progress(self, step: str) -> None:
        """Say what this rank is doing; the last line is what it was doing when it stopped. `times` has since when."""
        for kind, line in (("progress", step), ("times", f"{time.monotonic():.3f} {step}")):
            with self.path(kind).open("a") as file:
                file.write(f"{line}\n")

    def has_turn(self) -> bool:
        """Whether this rank's turn has come."""
        return self.shared(TURN).exists()

    def turn(self, known: Callable[[Path], None]) -> str:
        """Wait for this rank's turn; what stands in the word that gives it: the reference's folder (validation.run.held).

        `known` is told it where it is known before.
        """
        self.progress(READY)
        reference, turn, told = self.shared(REFERENCE), self.shared(TURN), False
        while not turn.exists():
            if not told and (told := reference.exists()):
                known(Path(reference.read_text()))
            time.sleep(_LOOKING)
        return turn.read_text()

    def write(self, findings: dict[str, Any]) -> None:
        """Leave the findings, whole or not at all."""
        self.progress("the end")
        self._leave("json", findings)

    def _leave(self, kind: str, what: dict[str, Any]) -> None:
        unfinished = self.path(f"{kind}.part")
        try:
            unfinished.write_text(json.dumps(what))
        except OSError:
            unfinished.unlink(missing_ok=True)  # a full disk has room for a word again
            raise
        unfinished.replace(self.path(kind))

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Within it the rank imports what it runs; what that raises is kept.

        A package that cannot be imported is missing from the machine, unless it is the checkout under test. What the checkout
        asks for and is not installed is missing, too.
        """
        try:
            yield
        except Exception as error:
            folder = checkout.chosen()
            own = folder is not None and any(Path(frame.filename).is_relative_to(folder) for frame in absent.frames(error))
            lacking = not own or absent.lacking(error) is not None
            self._leave_error(error, ExitCode.ENVIRONMENT if lacking else ExitCode.FAIL)
            raise

    def _leave_error(self, error: BaseException, code: ExitCode) -> None:
        stack = "".join(traceback.format_exception(error))
        self._leave("error", {"error": absent.told(error), "stack": stack, "exit_code": int(code)})

    @contextmanager
    def last_words(self) -> Iterator[None]:
        """Within it the rank's stacks are written when asked for or when it crashes, and what it raises is kept."""
        self.path("pid").write_text(str(os.getpid()))
        # The rank's parent is the fork server: when that goes, so must the rank, or it would hang in a collective.
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        _die_with_whoever_started_it()
        spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(_TO_LEAVE_A_WORD)]
        with self.path("stacks").open("w") as stacks:
            faulthandler.enable(stacks)
            faulthandler.register(signal.SIGUSR1, stacks)
            faulthandler.register(signal.SIGTERM, stacks, chain=True)
            try:
                yield
            except BaseException as error:
                while spare:
                    os.close(spare.pop())
                self._leave_error(error, exit_code(error))
                if isinstance(error, Exception):
                    raise
                # What starts ranks takes a KeyboardInterrupt, or sys.exit(0), for an end without a result, and waits for one.
                raise Ended(absent.told(error)) from error
            finally:
                while spare:
                    os.close(spare.pop())
                faulthandler.disable()
                faulthandler.unregister(signal.SIGUSR1)
                faulthandler.unregister(signal.SIGTERM)

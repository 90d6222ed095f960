"""What only a process with torch and megatron-core can say of a command, said before any case is started.

The process comes from the fork server of the ranks, which imports them anyway: waiting for it costs what the first rank would.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from validation.case.case import Case
from validation.case.errors import EnvironmentMissing, ExitCode, PlumblineError, UsageError
from validation.case.training import Training
from validation.run import entry, launch


class Question:
    """What a process with megatron-core is asked about cases, and answers while this process does other things.

    `otherwise` is called if they cannot be run.
    """

    def __init__(self, cases: Sequence[Case], timeout: float, otherwise: Callable[[], None] = lambda: None) -> None:
        self._otherwise = otherwise
        wanted = [case for case in cases if _has_code_or_weights(case) or _may_be_refused(case)]
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="ahead")
        self._asked: Future[tuple[int, str]] | None = None
        self.refused: PlumblineError | None = None
        """What `check` has raised."""
        # On a GPU it might import everything once more, only to say a little earlier what the ranks say, too.
        if wanted or launch.start_method() == "forkserver":
            self._asked = self._pool.submit(_asked, wanted, timeout)
            # This process will need it, and the fork server imports.
            self._torch = self._pool.submit(importlib.import_module, "torch")

    def check(self) -> None:
        """Wait for the answer.

        Raises EnvironmentMissing for what megatron-core needs and is not installed. Raises UsageError for a user's layer spec
        that is none, for a Megatron checkpoint of another model, and for options and settings that megatron-core's
        configuration classes refuse together.
        """
        if self._asked is None:
            return
        try:
            self._torch.result()
            code, said = self._asked.result()
        except BaseException:
            self._otherwise()
            raise
        finally:
            self._pool.shutdown(wait=False)  # whoever interrupts it does not wait for either
        if said:
            self._otherwise()
            self.refused = EnvironmentMissing(said) if code == ExitCode.ENVIRONMENT else UsageError(said)
            raise self.refused


def refusal(case: Case, timeout: float) -> str:
    """Why a configuration class of megatron-core's refuses a case, nothing if all take it."""
    code, said = _asked([case], timeout) if _may_be_refused(case) else (int(ExitCode.PASS), "")
    return said if code == ExitCode.USAGE else ""


def _has_code_or_weights(case: Case) -> bool:
    """Whether a user's own layer spec or Megatron checkpoint is compared."""
    return ":" in case.implementation or case.candidate_checkpoint is not None


def _may_be_refused(case: Case) -> bool:
    """Whether the case has more than Plumbline's own options. On a GPU the ranks say it: this process has no device."""
    return case.on_cpu and replace(case.training, steps=0) != Training()


def _asked(cases: Sequence[Case], timeout: float) -> tuple[int, str]:
    """Exit code and sentence of a process of its own; none where that dies or takes too long: the ranks tell more then."""
    context: Any = multiprocessing.get_context(launch.start_method())
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=entry.ahead, args=([case.to_json() for case in cases], sending), daemon=True)
    process.start()
    sending.close()
    try:
        code, said = receiving.recv() if receiving.poll(timeout) else (ExitCode.PASS, "")
    except EOFError:
        return int(ExitCode.PASS), ""
    else:
        return code, said
    finally:
        process.kill()
        process.join()


def answer(texts: Sequence[str], sending: Connection) -> None:
    """In that process: the first mistake that there is, or nothing."""
    from validation.candidate.checkpoint.fits import misfit
    from validation.candidate.refusal import refusal
    from validation.candidate.spec import users_function

    cases = [Case.from_json(text) for text in texts]
    try:
        for name in sorted({case.implementation for case in cases if ":" in case.implementation}):
            users_function(name)
    except UsageError as error:
        say(sending, ExitCode.USAGE, str(error))
        return
    said = (sentence for case in cases for sentence in (misfit(case), refusal(case) if _may_be_refused(case) else None))
    say(sending, ExitCode.USAGE, next(filter(None, said), ""))


def say(sending: Connection, code: ExitCode, sentence: str) -> None:
    """Send it to the process that has asked; no sentence is none."""
    sending.send((int(code), sentence))

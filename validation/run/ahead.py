"""What only a process with torch and megatron-core can say of a command, said before any case is started.

The process comes from the fork server of the ranks, which imports them anyway: waiting for it costs what the first rank would.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.run import entry, launch


def check(cases: Sequence[Case], timeout: float) -> None:
    """Raises UsageError for a user's layer spec that is none, and for a Megatron checkpoint of another model."""
    wanted = [case for case in cases if ":" in case.implementation or case.candidate_checkpoint is not None]
    if not wanted:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        asked = pool.submit(_asked, wanted, timeout)
        # This process will need it, and has nothing else to do while the fork server imports.
        importlib.import_module("torch")
    if asked.result():
        raise UsageError(asked.result())


def _asked(cases: Sequence[Case], timeout: float) -> str:
    """The sentence of a process of its own; none where that dies or takes too long, which the ranks will then tell more of."""
    context: Any = multiprocessing.get_context(launch.start_method())
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=entry.ahead, args=([case.to_json() for case in cases], sending), daemon=True)
    process.start()
    sending.close()
    try:
        return str(receiving.recv()) if receiving.poll(timeout) else ""
    except EOFError:
        return ""
    finally:
        process.kill()
        process.join()


def answer(texts: Sequence[str], sending: Connection) -> None:
    """In that process: the first mistake that there is, or nothing."""
    from validation.candidate.checkpoint.fits import misfit
    from validation.candidate.spec import users_function

    cases = [Case.from_json(text) for text in texts]
    try:
        for name in sorted({case.implementation for case in cases if ":" in case.implementation}):
            users_function(name)
    except UsageError as error:
        sending.send(str(error))
        return
    sending.send(next(filter(None, map(misfit, cases)), ""))

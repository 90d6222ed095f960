"""What a process with megatron-core says of a command before any case is started."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest

from validation.case.errors import EnvironmentMissing, ExitCode, UsageError
from validation.run import ahead, launch
from validation.run.options import parsed

PLAIN, SET = (parsed(["--layouts", label]).cases[0] for label in ("tp2", "tp2+allgather"))
WHATEVER = (int(ExitCode.PASS), "")


def _check(monkeypatch: pytest.MonkeyPatch, answer: Any, cases: list[Any]) -> tuple[ahead.Question, list[str]]:
    """A question that is answered so, and what was done."""
    done: list[str] = []

    def asked(cases: list[Any], timeout: float) -> Any:
        done.append(f"asked of {len(cases)}")
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(ahead, "_asked", asked)
    return ahead.Question(cases, 1.0, lambda: done.append("otherwise")), done


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((int(ExitCode.USAGE), "they refuse each other"), UsageError),
        ((int(ExitCode.ENVIRONMENT), "it is not installed"), EnvironmentMissing),
        (KeyboardInterrupt("interrupted"), KeyboardInterrupt),
    ],
    ids=["usage", "environment", "interrupted"],
)
def test_a_command_that_cannot_be_run_ends_with_the_sentence(
    answer: Any, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was begun for it is ended."""
    question, done = _check(monkeypatch, answer, [PLAIN, SET])
    with pytest.raises(error, match=answer[1] if isinstance(answer, tuple) else "interrupted") as raised:
        question.check()
    assert done == ["asked of 1", "otherwise"]
    assert question.refused is (raised.value if isinstance(answer, tuple) else None)


@pytest.mark.parametrize(("method", "said"), [("forkserver", ["asked of 0"]), ("spawn", [])])
def test_a_command_that_can_be_run_goes_on(method: str, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked of Plumbline's own options, if a process would have to import everything for that."""
    monkeypatch.setattr(launch, "start_method", lambda: method)
    question, done = _check(monkeypatch, WHATEVER, [PLAIN])
    question.check()
    assert (done, question.refused) == (said, None)


@pytest.mark.parametrize(
    ("case", "code", "refusal"),
    [(SET, ExitCode.USAGE, "no"), (SET, ExitCode.ENVIRONMENT, ""), (PLAIN, ExitCode.USAGE, "")],
    ids=["refused", "not installed", "not asked"],
)
def test_a_refusal_is_what_the_configuration_says(
    case: Any, code: ExitCode, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not installed refuses no case."""
    monkeypatch.setattr(ahead, "_asked", lambda cases, timeout: (int(code), "no"))
    assert ahead.refusal(case, 1.0) == refusal


@pytest.mark.parametrize(
    ("ends", "answer"),
    [("says", (int(ExitCode.USAGE), "no")), ("dies", WHATEVER), ("hangs", WHATEVER)],
    ids=["it says", "it dies", "it takes too long"],
)
def test_a_process_that_says_nothing_refuses_nothing(
    ends: str, answer: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks tell more then. It is ended in each case."""
    done: list[str] = []

    class Process:
        def __init__(self, target: Any, args: tuple[list[str], Connection], daemon: bool) -> None:
            self._texts, self._sending = args
            self._held = -1

        def start(self) -> None:
            self._held = os.dup(self._sending.fileno()) if ends == "hangs" else -1
            if ends == "says":
                assert self._texts == [SET.to_json()]
                ahead.say(self._sending, ExitCode.USAGE, "no")

        def kill(self) -> None:
            done.append("killed")

        def join(self) -> None:
            done.append("joined")
            if self._held >= 0:
                os.close(self._held)

    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=Process)
    monkeypatch.setattr(ahead, "multiprocessing", SimpleNamespace(get_context=lambda method: context))
    assert ahead._asked([SET], 0.01) == answer
    assert done == ["killed", "joined"]

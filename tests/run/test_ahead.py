"""What a process with megatron-core says of a command before any case is started."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest

from validation.case.errors import EnvironmentMissing, ExitCode, UsageError
from validation.run import ahead, entry, launch
from validation.run.options import parsed

PLAIN, SET = (parsed(["--layouts", label]).cases[0] for label in ("tp2", "tp2+allgather"))
WHATEVER = (int(ExitCode.PASS), "")


def _check(monkeypatch: pytest.MonkeyPatch, answer: Any, cases: list[Any]) -> tuple[ahead.Question, list[str]]:
    """A question that is answered so, and what was done."""
    done: list[str] = []

    def asked(cases: list[Any], timeout: float) -> Any:
        assert timeout == 1.0
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
    """And what was begun for it is ended. Nobody waits for the process that was asked, nor for an import."""
    question, done = _check(monkeypatch, answer, [PLAIN, SET])
    waits: list[bool] = []
    monkeypatch.setattr(question._pool, "shutdown", lambda wait: waits.append(wait))
    with pytest.raises(error, match=answer[1] if isinstance(answer, tuple) else "interrupted") as raised:
        question.check()
    assert (done, waits) == (["asked of 1", "otherwise"], [False])
    assert question.refused is (raised.value if isinstance(answer, tuple) else None)


def test_weights_and_code_of_a_user_are_always_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, too."""
    monkeypatch.setattr(launch, "start_method", lambda: "spawn")
    of_users = [replace(PLAIN, implementation="package.module:function"), replace(PLAIN, candidate_checkpoint="saved")]
    question, done = _check(monkeypatch, WHATEVER, [PLAIN, *of_users])
    question.check()
    assert done == ["asked of 2"]


@pytest.mark.parametrize(
    ("spec", "misfit", "refused", "answer"),
    [
        ("a spec", "a misfit", "refused", "a spec"),
        ("", "a misfit", "refused", "a misfit"),
        ("", None, "refused", "refused"),
        ("", None, None, ""),
    ],
)
def test_the_process_says_the_first_mistake(
    spec: str, misfit: str | None, refused: str | None, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The specs' first. Of Plumbline's own options megatron-core's configuration is not asked."""

    def users_function(name: str) -> None:
        assert name == "package.module:function"
        if spec:
            raise UsageError(spec)

    own = replace(SET, implementation="package.module:function")
    modules: dict[str, dict[str, Any]] = {
        "spec": {"users_function": users_function},
        "checkpoint.fits": {"misfit": {own: misfit, PLAIN: None}.__getitem__},
        "refusal": {"refusal": {own: refused}.__getitem__},
    }
    for name, members in modules.items():
        monkeypatch.setitem(sys.modules, f"validation.candidate.{name}", SimpleNamespace(**members))
    sent: list[tuple[int, str]] = []
    ahead.answer([PLAIN.to_json(), own.to_json()], SimpleNamespace(send=sent.append))  # type: ignore[arg-type]
    assert sent == [(int(ExitCode.USAGE), answer)]


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
    monkeypatch.setattr(ahead, "_asked", lambda cases, timeout: {(SET, 1.0): (int(code), "no")}[cases[0], timeout])
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
            assert (target, daemon) == (entry.ahead, True)
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
    monkeypatch.setattr(ahead, "multiprocessing", SimpleNamespace(get_context={launch.start_method(): context}.get))
    assert ahead._asked([SET], 0.01) == answer
    assert done == ["killed", "joined"]

"""How a check becomes a testcase: its component, its one line, its kind of failure, its place in the file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci.junit import Check
from validation.case import failures
from validation.case.errors import ExitCode
from validation.checks import files, titles
from validation.checks.testcase import LONGEST, check_of, message_of
from validation.compare.verdict import Verdict
from validation.run.cause import failure

CHECKS = Path(titles.__file__).parent


def item(path: Path, root: Path) -> Any:
    return SimpleNamespace(path=path, config=SimpleNamespace(rootpath=root))


@pytest.mark.parametrize(
    ("path", "root", "component"),
    [
        (CHECKS / "test_mla.py", CHECKS.parents[1], "mla"),
        (CHECKS / "test_probe_gradients.py", Path("/"), "probe_gradients"),
        (CHECKS / "test_my_component.py", CHECKS, "my_component"),
        (Path("/home/me/mine/test_mla.py"), Path("/home/me"), "mine.test_mla"),
        (Path("/home/me/test_mla.py"), Path("/home/me"), "me.test_mla"),
        (Path("/home/me/mla.py"), Path("/home/me"), "me.mla"),
        (Path("/home/me/mine/test_mla.py"), Path("/home/other"), "home.me.mine.test_mla"),
        (CHECKS / "more" / "test_mla.py", CHECKS.parents[1], "validation.checks.more.test_mla"),
    ],
)
def test_a_module_elsewhere_is_never_taken_for_one_of_ours(path: Path, root: Path, component: str) -> None:
    """Whatever the root of pytest is: a dotted path has a dot, and a component of ours has none."""
    assert titles.component_of(item(path, root)) == component


def report(**about: Any) -> Any:
    return SimpleNamespace(component="mla", title="Layer 0 Key", duration=0.5, **about)


ON_GITHUB = {"GITHUB_SERVER_URL": "https://github.example", "PLUMBLINE_REPOSITORY": "o/p", "PLUMBLINE_REF": "v1"}
PAGE = "docs/words-in-failures.md"


def test_a_failure_has_its_line_its_numbers_and_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ON_GITHUB:
        monkeypatch.delenv(name, raising=False)
    reasons = ("relative error 6.96e-01 > 1e-10", "scaled by 0.493543")
    verdict = Verdict("fail", "Layer 0 Key", "Max diff: 2.2", reasons, {"rel_error": "0.7"}, details="a stack", failure="limit")
    found = check_of(report(), "fail", verdict, verdict.line, "")
    assert found.message == "FAIL: Layer 0 Key - relative error 6.96e-01 > 1e-10; scaled by 0.493543"
    assert found.details == (
        "FAIL: Layer 0 Key - Max diff: 2.2; relative error 6.96e-01 > 1e-10; scaled by 0.493543\na stack"
        f"\nexplained in {PAGE}: #relative-error #scaled-by"
    )
    assert (found.component, found.name, found.failure) == ("mla", "Layer 0 Key", "limit")


def test_on_github_the_explanation_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ON_GITHUB.items():
        monkeypatch.setenv(name, value)
    found = check_of(report(), "error", None, "ERROR: a - worst at [1] on rank 0", "")
    assert found.details.splitlines()[-1] == f"explained in https://github.example/o/p/blob/v1/{PAGE}: #worst-at"
    assert "explained" not in check_of(report(), "pass", None, "PASS: a - worst at [1] on rank 0", "").details


def test_an_exception_of_a_check_is_one() -> None:
    found = check_of(report(), "error", None, "ERROR: Layer 0 Key", "Traceback")
    assert (found.message, found.details, found.failure) == ("ERROR: Layer 0 Key", "ERROR: Layer 0 Key\nTraceback", "exception")


def test_what_passes_has_neither_message_nor_kind() -> None:
    verdict = Verdict("pass", "Layer 0 Key", "Max diff: 0", failure="")
    found = check_of(report(), "pass", verdict, verdict.line, "")
    assert (found.message, found.failure) == ("", "")


def test_what_was_not_evaluated_says_so_in_its_message() -> None:
    verdict = Verdict("unevaluated", "Layer 0 Key", reasons=("the run did not finish",))
    assert verdict.line == "NOT EVALUATED: Layer 0 Key - the run did not finish"
    assert message_of("unevaluated", verdict, verdict.line) == "not evaluated: the run did not finish"


def test_a_known_bug_keeps_its_whole_line_for_the_gate() -> None:
    verdict = Verdict("known", "Layer 0 Key", "Max diff: 1", (f"known upstream bug: {'a long story ' * 40}",))
    assert message_of("known", verdict, verdict.line) == verdict.line


@pytest.mark.parametrize("reason", ["a reason of some length; " * 30, "word " * 200, "x" * 1000])
def test_a_message_is_one_line_of_some_length(reason: str) -> None:
    verdict = Verdict("fail", "Layer 0 Key", reasons=(reason, "another\nline"))
    found = message_of("fail", verdict, verdict.line)
    assert "\n" not in found
    assert found.startswith("FAIL: Layer 0 Key - ")
    assert LONGEST // 2 < len(found) <= LONGEST + len(" …")
    assert found.endswith(" …")


@pytest.mark.parametrize(
    ("failure", "name", "routes", "kind"),
    [
        (failures.LIMIT, "weights/lm_head.weight", False, failures.WEIGHTS),
        (failures.SHAPE, "weights/lm_head.weight", False, failures.WEIGHTS),
        (failures.COVERAGE, "weights/lm_head.weight", False, failures.COVERAGE),
        (failures.LIMIT, "layers.1.moe.router.experts", True, failures.ROUTES),
        (failures.SHAPE, "layers.1.moe.router.experts", True, failures.SHAPE),
        (failures.LIMIT, "logits", False, failures.LIMIT),
        ("", "weights/lm_head.weight", False, ""),
    ],
)
def test_what_was_compared_says_more_than_a_limit(failure: str, name: str, routes: bool, kind: str) -> None:
    assert failures.of_tensor(failure, name, routes) == kind


def test_a_message_is_cut_between_reasons() -> None:
    verdict = Verdict("fail", "Layer 0 Key", reasons=("off by one", "y" * 250, "z" * 250))
    assert message_of("fail", verdict, verdict.line) == f"FAIL: Layer 0 Key - off by one; {'y' * 250} …"


def test_the_first_failure_stands_behind_the_run_and_the_rest_in_the_flow_of_data() -> None:
    checks = [
        Check("run", "a", "pass"),
        Check("weights", "b", "pass"),
        Check("layers", "c", "known"),
        Check("mla", "d", "error"),
    ]
    checks += [Check("layers", "e", "fail"), Check("layers", "f", "unevaluated")]
    assert "".join(check.name for check in files.cause_ahead(checks)) == "adbcef"
    assert files.first_failure(checks) == checks[3]


@pytest.mark.parametrize(
    "statuses", [("pass", "pass", "known"), ("error", "unevaluated", "unevaluated"), ("error", "fail", "pass")]
)
def test_a_file_without_a_failure_or_with_a_run_that_broke_stays_as_it_is(statuses: tuple[str, str, str]) -> None:
    names = (("run", "a"), ("weights", "b"), ("mla", "c"))
    checks = [Check(*name, status) for name, status in zip(names, statuses, strict=True)]
    assert list(files.cause_ahead(checks)) == checks


def test_nothing_is_lost_of_checks_that_are_alike() -> None:
    same = Check("mla", "a", "fail")
    assert files.cause_ahead([Check("mla", "b", "pass"), same, same]).count(same) == 2


@pytest.mark.parametrize(
    ("code", "sentence", "kind"),
    [
        (ExitCode.INFRASTRUCTURE, "rank 1 raised torch.OutOfMemoryError: CUDA out of memory", failures.MEMORY),
        (ExitCode.INFRASTRUCTURE, "the ranks did not finish within 5 s (rank 0 in 'model')", failures.TIMEOUT),
        (ExitCode.INFRASTRUCTURE, "rank 1 was killed by SIGKILL in 'model'", failures.CRASH),
        (ExitCode.ENVIRONMENT, "rank 1 ended with exit status 1: no space left", failures.ENVIRONMENT),
        (ExitCode.FAIL, "rank 1 raised ValueError: a shape", failures.EXCEPTION),
        (ExitCode.USAGE, "rank 1 raised PluginBroke: it has no layer 0", failures.EXCEPTION),
    ],
)
def test_a_run_that_broke_says_what_kind_of_failure_it_was(code: ExitCode, sentence: str, kind: str) -> None:
    assert failure(code, sentence) == kind
    assert kind in failures.KINDS

"""What a command ends with: a wrong number outweighs a run that broke, which alone may be tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import junit
from validation.case.errors import ExitCode
from validation.checks.files import written
from validation.checks.outcome import Outcome
from validation.checks.tally import Tally

LOST, MISSING = ExitCode.INFRASTRUCTURE, ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        pytest.param([("a", "pass"), ("a", "known")], ExitCode.PASS, id="all pass"),
        pytest.param([("a", "pass"), ("a", "fail")], ExitCode.FAIL, id="one fails"),
        pytest.param([("a", "pass"), ("a", "error")], ExitCode.FAIL, id="one cannot be decided though the ranks finished"),
        pytest.param([("a", "pass"), ("lost", "error")], ExitCode.INFRASTRUCTURE, id="a case whose ranks were lost"),
        pytest.param([("missing", "error")], ExitCode.ENVIRONMENT, id="a case without its package"),
        pytest.param([("missing", "error"), ("lost", "error")], ExitCode.ENVIRONMENT, id="what another try cannot mend"),
        pytest.param([("lost", "error"), ("a", "fail")], ExitCode.FAIL, id="a failure beside lost ranks"),
        pytest.param([("lost", "error"), ("a", "error")], ExitCode.FAIL, id="an undecided check beside lost ranks"),
    ],
)
def test_only_what_was_lost_may_be_tried_again(checks: list[tuple[str, str]], code: ExitCode) -> None:
    tally = Tally()
    broke = {"lost": LOST, "missing": MISSING}
    tally.broke = {suite: broke[suite] for suite, _ in checks if suite in broke}
    for suite, status in checks:
        tally.count(suite, Outcome(status, title="", line=""))
    assert tally.exit_code == code


def test_a_disk_that_is_full_when_a_case_ends_is_no_verdict(tmp_path: Path) -> None:
    """The run ends with what is missing and where; here the file's folder is a file."""
    (tmp_path / "results").touch()
    said = r"one\.xml cannot be written: .*; make room there, or name another folder with --results"
    with pytest.raises(pytest.exit.Exception, match=said) as ended:
        written(tmp_path / "results" / "one.xml", junit.Suite("one", (), {}))
    assert ended.value.returncode == ExitCode.ENVIRONMENT

"""The workflow for GitHub Enterprise Server is made of the other one, and is as it was made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import cli, ghes
from ci.ghes import SOURCE, TARGET, made
from validation.case.errors import ExitCode, UsageError


def text() -> str:
    """That of parity.yml."""
    return SOURCE.read_text(encoding="utf-8")


def jobs(written: str) -> dict[str, Any]:
    """Of a workflow."""
    found = yaml.safe_load(written)["jobs"]
    assert isinstance(found, dict)
    return found


def test_it_is_as_it_is_made() -> None:
    assert TARGET.read_text(encoding="utf-8") == made(text()), "write it with python -m ci ghes"


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ghes", "--output", str(tmp_path / "a.yml")]) == ExitCode.PASS
    assert capsys.readouterr().out == f"{tmp_path / 'a.yml'}\n"
    assert (tmp_path / "a.yml").read_text(encoding="utf-8") == TARGET.read_text(encoding="utf-8")


def test_without_a_checkout_there_is_nothing_to_make_it_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ghes, "SOURCE", tmp_path / "parity.yml")
    assert cli.main(["ghes", "--output", str(tmp_path / "a.yml")]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("error: parity.yml: there is none below .github/workflows")
    assert not (tmp_path / "a.yml").exists()


@pytest.mark.parametrize(
    "old",
    [
        "name: Parity\n",
        "      keep-baseline:\n",
        "      runner:\n",
        "Where Plumbline is checked out from",
        "    needs: [plan, hosted, self-hosted]\n",
        "      - name: Fetch the baseline\n",
        "          pattern: ",
        "          overwrite: true\n",
    ],
)
def test_what_it_does_not_find_is_said(old: str) -> None:
    """A change of parity.yml that would be left out silently ends the command."""
    assert old in text()
    with pytest.raises(UsageError, match=r"parity\.yml has .* \d times and not \d; change ci/ghes\.py with it"):
        made(text().replace(old, old.replace("a", "b").replace("e", "f"), 1))


def test_a_backslash_of_a_step_stays_one() -> None:
    assert ghes._replaced("steps: a\n", "a", r"sed 's/\1\.$//'") == "steps: sed 's/\\1\\.$//'\n"


def test_what_is_changed_elsewhere_is_taken_over() -> None:
    longer = text().replace("timeout-minutes: 20\n", "timeout-minutes: 25\n")
    assert "timeout-minutes: 25\n" in made(longer)


def test_nothing_is_in_it_that_the_server_does_not_have() -> None:
    """Anchors, who the workflow is, machines of GitHub's, and artifact actions from version 4 on."""
    written = TARGET.read_text(encoding="utf-8")
    assert re.findall(r": [&*]\w+|job\.workflow_\w+|ubuntu|\$/", written) == []
    versions = dict(re.findall(r"uses: actions/([a-z-]+)@\S+ # v(\d+)", written))
    assert versions == {"checkout": "4", "upload-artifact": "3", "download-artifact": "3"}


def test_every_machine_is_cleaned_before_anything_else() -> None:
    """All are the team's own, and keep what an earlier job has left."""
    for name, job in jobs(TARGET.read_text(encoding="utf-8")).items():
        first = [step["name"] for step in job["steps"]]
        assert first.index("Clean before") == (1 if name == "gate" else 0), name


def test_every_job_of_a_fork_waits_for_a_maintainer() -> None:
    found = jobs(TARGET.read_text(encoding="utf-8"))
    assert [name for name, job in found.items() if "needs" not in job] == ["permit"]
    assert found["permit"]["environment"] == "gpu-forks"
    (stop, clean, *steps) = found["gate"]["steps"]
    assert stop["if"] == "needs.plan.result == 'skipped'"
    assert "if" not in clean, "success() is implied, and the step before has failed"
    always = "${{ always() && needs.plan.result != 'skipped'"
    assert {step["if"] for step in steps} == {f"{always} }}}}", f"{always} && env.PLUMBLINE_RECIPE }}}}"}

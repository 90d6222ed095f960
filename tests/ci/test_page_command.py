"""`python -m ci page`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci import cli, junit
from tests.ci.green import FILE, SUITE, command_line
from tests.ci.read_pages import Read
from tests.ci.runs import check, suite


def command(*words: object) -> int:
    return cli.main(["page", *map(str, words)])


def test_the_command_writes_the_page_of_a_folder_and_of_the_folders_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit.write(tmp_path / "results" / "a.xml", suite("tp2"))
    junit.write(tmp_path / "results" / "results-parity" / "b.xml", suite("pp2"))
    output = tmp_path / "new" / "report.html"
    assert command("--results", tmp_path / "results", "--output", output) == 0
    assert "report.html: pass, 1,306 checks in 2 cases" in capsys.readouterr().out
    assert len(Read(output.read_text(encoding="utf-8")).data["suites"]) == 2
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


def test_a_file_that_cannot_be_read_is_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<testsuite")
    assert command("--results", tmp_path, "--output", tmp_path / "report.html") == 0
    assert "unreadable: a.xml" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "verdict", "said"),
    [
        ([], "Pass", "in 1 case"),
        (
            ["--base", "{base}"],
            "Fail",
            "drift: a.xml: Layer 0 Value (mla): 0.9 of its limit, and 6e-06 on the base branch",
        ),
        (["--base", "{base}", "--accept", "a > b"], "Pass", "1 drifted from the base branch, accepted: a > b"),
    ],
)
def test_drift_is_red_on_the_page_unless_it_is_accepted(tmp_path: Path, words: list[str], verdict: str, said: str) -> None:
    junit.write(tmp_path / "base" / "a.xml", suite(checks=(check("Layer 0 Value", rel_error="6e-16"),)))
    junit.write(tmp_path / "now" / "a.xml", suite(checks=(check("Layer 0 Value", rel_error="9e-11"),)))
    given = [word.format(base=tmp_path / "base") for word in words]
    assert command("--results", tmp_path / "now", "--output", tmp_path / "report.html", *given) == 0
    read = Read((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"{verdict} Plumbline: 1 check" in read.text
    assert said in read.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--results", "{folder}/none"], "is no folder; --results names"),
        (["--results", "{folder}"], "no JUnit file (*.xml) in"),
        (["--results", "{folder}/good", "--output", "{folder}"], "cannot be written"),
    ],
)
def test_wrong_usage_is_said_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    junit.write(tmp_path / "good" / "a.xml", suite())
    (folder / "good").symlink_to(tmp_path / "good")
    if "{folder}" in words[1:2]:
        (folder / "good").unlink()
    assert command(*(word.replace("{folder}", str(folder)) for word in words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_what_to_do_next_is_a_link_where_there_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    junit.write(tmp_path / "a.xml", suite(checks=(check("Layer 0 Value", "fail", reproduce="python -m validation run -k a"),)))
    on_github = {"GITHUB_SERVER_URL": "https://github.example", "GITHUB_REPOSITORY": "o/n", "GITHUB_RUN_ID": "77"}
    on_github |= {"PLUMBLINE_REPOSITORY": "o/plumbline", "PLUMBLINE_REF": "main"}
    for name in on_github:
        monkeypatch.delenv(name, raising=False)
    output = tmp_path / "report.html"
    assert command("--results", tmp_path, "--output", output) == 0
    local = Read(output.read_text(encoding="utf-8"))
    assert "What to do with a first red check: docs/first-red-check.md" in local.text
    assert "PLUMBLINE_REPOSITORY=..." in local.data["suites"][0]["setup"]
    for name, value in on_github.items():
        monkeypatch.setenv(name, value)
    assert command("--results", tmp_path, "--output", output) == 0
    hosted = Read(output.read_text(encoding="utf-8"))
    wanted = {"https://github.example/o/n/actions/runs/77"}
    wanted |= {"https://github.example/o/plumbline/blob/main/docs/first-red-check.md"}
    assert wanted <= set(hosted.attributes("href"))
    assert "fetch --quiet --depth 1 https://github.example/o/plumbline 0123456789abcdef" in hosted.text


def test_with_a_manifest_the_page_says_what_the_gate_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Green, and red for what the files alone do not say; one case is one case."""
    words, output = command_line(tmp_path), tmp_path / "report.html"
    assert command(*words, "--output", output) == 0
    assert capsys.readouterr().out == f"{output}: pass, 4 checks in 1 case\n"
    junit.write(tmp_path / "results" / FILE, replace(SUITE, checks=SUITE.checks[:3]))
    assert command(*words, "--output", output) == 0
    assert capsys.readouterr().out == f"{output}: error, 4 checks in 1 case\n"
    read = Read(output.read_text(encoding="utf-8"))
    assert read.data["status"] == "pppm"
    assert "the manifest demands it, and no result has it" in read.text


def test_a_manifest_that_cannot_be_read_is_a_page_without_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, output = command_line(tmp_path), tmp_path / "report.html"
    (tmp_path / "manifest.json").write_text("{")
    assert command(*words, "--output", output) == 0
    assert capsys.readouterr().out == f"{output}: error, 0 checks in 0 cases\n"
    assert "manifest.json" in Read(output.read_text(encoding="utf-8")).text


def test_a_disk_without_room_is_said_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    junit.write(tmp_path / "a.xml", suite())
    monkeypatch.setattr("ci.page.command.writing.write", full)
    assert command("--results", tmp_path, "--output", tmp_path / "report.html") == 3
    assert capsys.readouterr().err.startswith(f"error: --output {tmp_path / 'report.html'}: no space, or no inode, is left; ")


def test_help_says_what_happens_without_a_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert " manifest wrote; without it the verdict is that of the files which are there --results " in said

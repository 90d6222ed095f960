"""A tag is released only if the changelog and what was built say its version."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.cli import main

CHANGELOG = (
    "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2027-01-31\n\n### Added\n\n- A thing\n\n## [0.1.0] - 2026-12-01\n\n- All\n"
)
FILES = ("plumb_line-0.2.0-py3-none-any.whl", "plumb_line-0.2.0.tar.gz")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with its changelog and the name of the package."""
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "Plumb.Line"\n', encoding="utf-8")
    return tmp_path


def built(root: Path, *files: str) -> list[str]:
    """The option that names a folder with these files."""
    folder = root / "dist"
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    return ["--built", str(folder)]


def tagged(root: Path, tag: str, *more: str) -> int:
    """The command."""
    return main(["tagged", "--tag", tag, "--root", str(root), *more])


def test_a_tag_of_the_newest_section_is_released(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tagged(root, "v0.2.0") == 0
    assert tagged(root, "v0.2.0", *built(root, *FILES)) == 0
    assert capsys.readouterr().out == "v0.2.0: all say 0.2.0\n" * 2


def test_a_release_candidate_has_a_section_of_its_own(root: Path) -> None:
    (root / "CHANGELOG.md").write_text(CHANGELOG.replace("[0.2.0]", "[0.2.0rc1]"), encoding="utf-8")
    assert tagged(root, "v0.2.0rc1") == 0
    assert tagged(root, "v0.2.0") == 1


@pytest.mark.parametrize(
    "tag", ["0.2.0", "v0.2", "v0.2.0.1", "v00.2.0", "v0.2.0-rc1", "v0.2.0.dev1", "v0.2.0+a", "vv0.2.0", "latest"]
)
def test_another_tag_is_none(root: Path, capsys: pytest.CaptureFixture[str], tag: str) -> None:
    assert tagged(root, tag) == 2
    assert capsys.readouterr().err == f"error: tag {tag} is no release: write v1.2.3, or v1.2.3rc1 for a release candidate\n"


def test_an_empty_option_is_said_to_be_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--tag", ""], ["--tag", "v0.2.0", "--root", ""], ["--tag", "v0.2.0", "--built", ""]):
        assert main(["tagged", *words]) == 2
        assert f"{words[-2]} is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        CHANGELOG.replace("## [0.2.0] - 2027-01-31", "## [0.3.0] - 2027-01-31"),
        CHANGELOG.replace(" - 2027-01-31", ""),
        CHANGELOG.replace("2027-01-31", "soon"),
        CHANGELOG.replace("[0.2.0]", "[0X2.0]"),
        CHANGELOG.replace(
            "## [Unreleased]\n\n## [0.2.0] - 2027-01-31", "## [0.3.0] - 2027-02-28\n\n- B\n\n## [0.2.0] - 2027-01-31"
        ),
        "# Changelog\n\n## [Unreleased]\n\n- A thing\n",
        "",
    ],
)
def test_what_the_changelog_does_not_have_on_top_is_not_released(
    root: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (root / "CHANGELOG.md").write_text(text, encoding="utf-8")
    assert tagged(root, "v0.2.0") == 1
    assert capsys.readouterr().out == (
        "red: CHANGELOG.md has no section '## [0.2.0] - YYYY-MM-DD' directly below [Unreleased]: "
        "put that heading above what is released\n"
    )


def test_a_section_that_says_nothing_is_red(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next section's lines are not its own."""
    (root / "CHANGELOG.md").write_text(CHANGELOG.replace("- A thing\n", "Not a - line\n"), encoding="utf-8")
    assert tagged(root, "v0.2.0") == 1
    assert capsys.readouterr().out == "red: section [0.2.0] of CHANGELOG.md says nothing: write down what users notice\n"


def test_without_unreleased_the_first_section_counts(root: Path) -> None:
    (root / "CHANGELOG.md").write_text(CHANGELOG.replace("## [Unreleased]\n\n", ""), encoding="utf-8")
    assert tagged(root, "v0.2.0") == 0


OTHER = "{} is not plumb-line 0.2.0: build from a clean checkout of the tag, with all tags fetched"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (FILES[:1], ["{dist} has no sdist: build it with python -m build"]),
        (FILES[1:], ["{dist} has no wheel: build it with python -m build"]),
        ((*FILES, "plumb_line-0.1.0.tar.gz"), [OTHER.format("plumb_line-0.1.0.tar.gz")]),
        ((*FILES, "notes.txt"), [OTHER.format("notes.txt")]),
        ((FILES[0], "other-0.2.0.tar.gz"), [OTHER.format("other-0.2.0.tar.gz")]),
        (("other-0.2.0-py3-none-any.whl", FILES[1]), [OTHER.format("other-0.2.0-py3-none-any.whl")]),
        (("a.whl", FILES[1]), [OTHER.format("a.whl")]),
        (
            ("plumb_line-0.2.1.dev3-py3-none-any.whl", "plumb_line-0.2.1.dev3.tar.gz"),
            [OTHER.format("plumb_line-0.2.1.dev3-py3-none-any.whl"), OTHER.format("plumb_line-0.2.1.dev3.tar.gz")],
        ),
    ],
)
def test_what_was_built_is_one_version(
    root: Path, capsys: pytest.CaptureFixture[str], files: tuple[str, ...], said: list[str]
) -> None:
    assert tagged(root, "v0.2.0", *built(root, *files)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"red: {one.format(dist=root / 'dist')}" for one in said]


def test_a_folder_that_is_not_there_has_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tagged(root, "v0.2.0", "--built", str(root / "none")) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_all_that_is_wrong_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tagged(root, "v0.3.0", *built(root, *FILES)) == 1
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["CHANGELOG.md", *FILES]


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_no_changelog_is_one_sentence(root: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    path = root / "CHANGELOG.md"
    path.unlink() if content is None else path.write_bytes(content)
    assert tagged(root, "v0.2.0") == 2
    why = "No such file or directory" if content is None else "it is not UTF-8"
    assert capsys.readouterr().err == f"error: {path}: {why}; --root must be a checkout of Plumbline\n"


@pytest.mark.parametrize("content", ["[project", "a = 1", "project = 1", "[project]\n"])
def test_no_name_is_one_sentence(root: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = root / "pyproject.toml"
    path.write_text(content, encoding="utf-8")
    assert tagged(root, "v0.2.0", *built(root, *FILES)) == 2
    assert capsys.readouterr().err == f"error: {path} names no project; --root must be a checkout of Plumbline\n"


def test_here_is_the_folder_that_is_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert main(["tagged", "--tag", "v0.2.0"]) == 0

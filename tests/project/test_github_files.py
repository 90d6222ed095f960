"""Files that GitHub reads beside the workflows: what they name exists, and nobody is named who does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.understood import understand
from validation.case.errors import ExitCode

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("[0-9]-*.yml"))
LABELS = {
    *("bug", "documentation", "duplicate", "enhancement", "good first issue", "help wanted", "invalid", "question", "wontfix"),
}
"""Those that GitHub makes with a repository. It drops any other that nobody has made."""
OWNER = re.compile(r"@[\w-]+(/[\w.-]+)?|[^@\s]+@[^@\s]+\.[^@\s]+")


def content(path: Path) -> Any:
    """Of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[list[str]]:
    """Of CODEOWNERS: a path and its owners, comments left out."""
    lines = (GITHUB / "CODEOWNERS").read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


def test_every_owned_path_exists_as_it_is_written() -> None:
    """A folder ends with a slash, and a file does not: else GitHub's pattern means something else."""
    for path, *_ in rules():
        assert path.startswith("/"), path
        found = ROOT / path.strip("/")
        assert found.is_dir() if path.endswith("/") else found.is_file(), path


def test_what_the_security_page_wants_owned_is_there() -> None:
    (sentence,) = re.findall(
        r"let `CODEOWNERS` ask for a maintainer for (.*?)\.\s", (ROOT / "docs" / "security.md").read_text("utf-8"), re.DOTALL
    )
    wanted = {name.strip("/") for name in re.findall(r"`([^`]+)`", sentence)}
    assert {"ci", "noxfile.py"} <= wanted
    assert wanted <= {path.strip("/") for path, *_ in rules()}


def test_either_nobody_owns_anything_or_every_path_has_an_owner() -> None:
    """As it is here, and as it is in a copy whose team has put its name behind each line."""
    owners = [names for _, *names in rules()]
    assert all(owners) or not any(owners)
    assert [name for names in owners for name in names if not OWNER.fullmatch(name)] == []
    said = "NOBODY OWNS THESE PATHS YET" in (GITHUB / "CODEOWNERS").read_text(encoding="utf-8")
    assert said is not any(owners)


def test_the_command_in_code_owners_gives_every_path_its_owner() -> None:
    text = (GITHUB / "CODEOWNERS").read_text(encoding="utf-8")
    (pattern, instead) = re.findall(r"sed -i 's\|(.*?)\|(.*?)\|' \.github/CODEOWNERS", text)[0]
    filled = [re.sub(pattern, instead.replace("&", r"\g<0>"), " ".join(rule)) for rule in rules()]
    assert all(len(line.split()) > 1 and OWNER.fullmatch(line.split()[-1]) for line in filled)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_has_labels_that_every_repository_has(form: Path) -> None:
    assert set(content(form)["labels"]) <= LABELS


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_something_and_each_question_has_a_name_of_its_own(form: Path) -> None:
    questions = [one for one in content(form)["body"] if one["type"] != "markdown"]
    assert any(one.get("validations", {}).get("required") for one in questions)
    names = [one["id"] for one in questions]
    assert len(names) == len(set(names))
    labels = [one["attributes"]["label"] for one in questions]
    assert len(labels) == len(set(labels))


def texts(value: Any) -> list[str]:
    """Every text in a form."""
    if isinstance(value, dict):
        return [text for one in value.values() for text in texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in texts(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    "file", [*FORMS, GITHUB / "pull_request_template.md", ROOT / "SECURITY.md"], ids=lambda path: path.stem
)
def test_paths_in_forms_exist(file: Path) -> None:
    said = texts(content(file)) if file.suffix == ".yml" else [file.read_text(encoding="utf-8")]
    paths = {path for text in said for path in re.findall(r"[\w.-]+(?:/[\w.-]+)+|\w+\.md", text) if "://" not in text}
    made = {"results/debug"}  # a run leaves it
    rooms = {path for path in paths if path.split("/")[0] in ("docs", "validation", "tests", "ci", ".github")}
    rooms |= {path for path in paths if path.endswith(".md")}
    assert [path for path in sorted(rooms - made) if not (ROOT / path).exists()] == []


def test_commands_in_forms_are_understood() -> None:
    said = [text for form in FORMS for text in texts(content(form))]
    named = re.findall(r"`((?:python -m|nox|plumbline)[^`]+)`", "\n".join(said))
    placed = [line for form in FORMS for one in content(form)["body"] for line in placeholder(one)]
    assert len(named) > 2
    assert len(placed) > 2
    for command in [*named, *placed]:
        understand(command, possible=True)


def placeholder(question: dict[str, Any]) -> list[str]:
    """The lines that stand in an empty box for a command."""
    if question["attributes"].get("render") != "shell":
        return []
    return str(question["attributes"]["placeholder"]).splitlines()


def test_exit_codes_of_the_form_are_those_there_are() -> None:
    (question,) = [one for one in content(GITHUB / "ISSUE_TEMPLATE" / "3-crash.yml")["body"] if one.get("id") == "exit-code"]
    listed = [int(one.split()[0]) for one in question["attributes"]["options"] if one[0].isdigit()]
    assert listed == sorted(code.value for code in ExitCode)


def test_dependabot_looks_at_every_folder_that_has_something_to_update() -> None:
    updates = {one["package-ecosystem"]: one for one in content(GITHUB / "dependabot.yml")["updates"]}
    node = {f"/{path.parent.relative_to(ROOT)}" for path in ROOT.glob("tests/*/package.json")}
    assert set(updates["npm"]["directories"]) == node
    actions = {f"/{path.parent.relative_to(ROOT)}" for path in GITHUB.glob("actions/*/action.yml")}
    assert set(updates["github-actions"]["directories"]) == {"/", *actions}
    assert updates["pip"]["directory"] == "/requirements"


def requirements(*names: str) -> dict[str, str]:
    """Package -> its versions, of the files of requirements/."""
    files = [ROOT / "requirements" / f"{name}.txt" for name in names] or sorted((ROOT / "requirements").glob("*.txt"))
    lines = [line.partition("#")[0].strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    found = [re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?(.*)", line) for line in lines if line and not line.startswith("-")]
    return {one[1]: one[2] for one in found if one}


def test_dependabot_leaves_alone_what_is_pinned_for_a_reason() -> None:
    """What computes the numbers, the linters that pre-commit has, too, and mutmut; all of it is there, and has a bound."""
    (pip,) = [one for one in content(GITHUB / "dependabot.yml")["updates"] if one["package-ecosystem"] == "pip"]
    ignored = {one["dependency-name"] for one in pip["ignore"]}
    everything = requirements()
    assert [name for name in sorted(ignored) if "==" not in everything[name] and "<" not in everything[name]] == []
    computes = requirements("base", "cpu", "te", "oracle")
    bound = {name for name, versions in computes.items() if "==" in versions} | {"transformers"}
    pinned = {name for name, versions in requirements("lint", "mutants").items() if "==" in versions}
    assert ignored == bound | pinned
    assert all(len(one["update-types"]) == 3 for one in pip["ignore"])

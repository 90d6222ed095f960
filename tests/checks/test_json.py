"""What `--format json` writes is what docs/json.schema.json says, for every command and every way to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.checks.conftest import BROKEN, LAYERS, ROOT, warm

SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "json.schema.json").read_text()))
SMALL = ("--set", f"num_layers={LAYERS}", "--steps", "0")


def said_by(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The document, which is valid, and has the exit code."""
    document: dict[str, Any] = json.loads(done.stdout)
    SCHEMA.validate(document)
    assert document["exit_code"] == done.returncode
    return document


def test_a_red_run_says_what_fails_first(cache: Path, tmp_path: Path) -> None:
    """In the layout that fails, with how to reproduce it; what passes is in the JUnit file."""
    words = ["--layouts", "single,tp2", "--implementation", f"{BROKEN}:reduction_lost", *SMALL]
    done = warm(["run", *words, "--format", "json", "--results", str(tmp_path)], cache)
    document = said_by(done)
    assert (document["verdict"], document["exit_code"]) == ("FAIL", 1)
    single, tp2 = document["suites"]
    assert (single["layout"], single["verdict"], single["checks"]) == ("single", "PASS", [])
    assert (tp2["layout"], tp2["verdict"], len(tp2["checks"])) == ("tp2", "FAIL", tp2["counts"]["fail"])
    assert tp2["first"]["line"].startswith("FAIL: Layer 0 Attention Output - ")
    assert tp2["first"]["reproduce"].startswith("python -m validation run ")
    assert Path(tp2["junit"]).is_file()
    assert "tensor" in document["diagnosis"]["sentence"]
    assert document["checks"] == sum(document["counts"].values())
    assert "Overall result: FAIL" in done.stderr


def test_with_every_line_it_has_every_check(cache: Path, tmp_path: Path) -> None:
    """With its numbers."""
    done = warm(["run", "-v", *SMALL, "--format=json", "--results", str(tmp_path)], cache)
    document = said_by(done)
    (suite,) = document["suites"]
    assert (document["verdict"], document["left_out"]) == ("PASS", 0)
    assert len(suite["checks"]) == document["checks"] == document["counts"]["pass"]
    (found,) = [check for check in suite["checks"] if check["title"] == "Layer 0 Attention Output"]
    assert 0 < found["relative_error"] < found["limit"] == 1e-10


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--tp", "3"), 2, "tp3 does not divide the 4 attention heads"),
        (("--no-such-option",), 2, "unrecognized arguments: --no-such-option"),
        (("--transport", "nccl", "--tp", "2"), 3, "GPU"),
        (("--", "-k", "a and ("), 2, "standard error says why"),
        (("--", "--collect-only"), 0, "no check was made"),
        (("--", "--version"), 0, "no check was made"),
    ],
)
def test_what_is_wrong_before_the_start_is_json(
    cache: Path, tmp_path: Path, words: tuple[str, ...], code: int, sentence: str
) -> None:
    """Whatever the exit code, a document without checks is no pass."""
    done = warm(["run", "--format", "json", "--results", str(tmp_path), *words], cache)
    document = said_by(done)
    assert (document["verdict"], done.returncode) == ("ERROR", code)
    assert sentence in document["error"]


def test_a_manifest_is_all_that_was_asked_for(cache: Path, tmp_path: Path) -> None:
    done = warm(["run", "--format", "json", "--manifest", str(tmp_path / "m.json")], cache)
    document = said_by(done)
    assert (document["verdict"], done.returncode) == ("PASS", 0)
    assert f"{tmp_path / 'm.json'}: 1 testsuite, 656 checks\n" in done.stderr


def test_a_comparison_of_checkpoints(tmp_path: Path) -> None:
    """Of nothing: the folders are not there."""
    done = warm(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--format", "json"], tmp_path)
    document = said_by(done)
    assert (document["command"], done.returncode) == ("compare", 2)
    assert str(tmp_path / "a") in document["error"]


def test_a_gate_says_its_reasons(tmp_path: Path) -> None:
    """A manifest that is not there makes it red."""
    words = ["gate", "--manifest", str(tmp_path / "m.json"), "--results", str(tmp_path), "--format", "json"]
    done = subprocess.run([sys.executable, "-m", "ci", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    document = said_by(done)
    assert (document["command"], document["verdict"], done.returncode) == ("gate", "FAIL", 1)
    assert [reason["where"] for reason in document["reasons"]] == ["manifest"]
    assert "===== Gate: RED" in done.stderr

"""A user's own checks: what compares nothing is no pass, and what cannot be collected or asked says so in a sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.checks.conftest import warm
from validation.checks.uncollected import refusal

OWN = """
from validation.checks.parity import Parity
from validation.compare.limits import Limits


def test_own_nothing(parity: Parity) -> bool:
    return False


def test_own_exit(parity: Parity) -> None:
    raise SystemExit(0)


def test_own_number(parity: Parity) -> None:
    parity.agrees("layers.0.output", 1e-10)


def test_own_several(parity: Parity) -> None:
    for layer in (0, 1):
        parity.agrees(f"layers.{layer}.input_norm", Limits(relative_error=1e-9))
"""


def test_what_compares_nothing_is_no_pass(tmp_path: Path, cache: Path) -> None:
    """Neither is a check that ends the process, or whose limit is none; all others are made."""
    (tmp_path / "test_own.py").write_text(OWN, encoding="utf-8")
    done = warm(["run", "--layouts", "single", "--", str(tmp_path / "test_own.py"), "-k", "test_own"], cache)
    assert done.returncode == 1
    for line in (
        "ERROR: test_own_nothing[tiny-single-fp64-local-gloo]\nit compares nothing: a check that takes `parity` makes",
        "ERROR: test_own_exit[tiny-single-fp64-local-gloo]",
        "1e-10 is no Limits; give Limits(relative_error=1e-10)",
        "PASS: Layer 0 Input Norm Output",
    ):
        assert line in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr


def test_checks_that_cannot_be_collected_are_said(tmp_path: Path, cache: Path) -> None:
    """Before anything runs, with what is wrong with them."""
    own = tmp_path / "test_unlayered.py"
    own.write_text("from validation.checks.marks import every_layer\n@every_layer\ndef test(parity): ...\n", encoding="utf-8")
    done = warm(["run", "--layouts", "single", "--", str(own)], cache)
    assert done.returncode == 2
    assert "test_unlayered.py: pytest cannot collect its checks (" in done.stdout + done.stderr
    assert "function uses no argument 'layer'); mend the file, or move it elsewhere" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "own.py:3: in <module>\n    import nowhere\nE   ModuleNotFoundError: No module named 'nowhere'",
            "ModuleNotFoundError: No",
        ),
        ("'yield' keyword is allowed in fixtures, but not in tests", "'yield' keyword"),
        ("", "nothing said"),
    ],
)
def test_the_last_line_of_an_error_is_its_sentence(text: str, said: str) -> None:
    module, report = SimpleNamespace(nodeid="own.py"), SimpleNamespace(longreprtext=text)
    assert str(refusal(module, report)).startswith(f"own.py: pytest cannot collect its checks ({said}")

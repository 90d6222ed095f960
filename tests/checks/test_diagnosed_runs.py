"""A real run of three layouts with a fault: its last lines say what the failing layout points to."""

from __future__ import annotations

from pathlib import Path

from ci import junit
from ci.diagnosis import diagnose
from tests.checks.conftest import warm

LAYOUTS = ("single", "tp2", "dp2")


def test_a_lost_reduction_is_named_for_what_it_is(tmp_path: Path) -> None:
    """On the terminal, and from the files alone."""
    words = ["run", "--preset", "tiny", "--set", "num_hidden_layers=2", "--layouts", ",".join(LAYOUTS), "--steps", "0"]
    done = warm([*words, "--plugin", "validation.faults.catalogue.t13", "--results", str(tmp_path)], tmp_path / "cache")
    assert done.returncode == 1, done.stderr
    found = diagnose([junit.read(tmp_path / f"tiny-{layout}-fp64-local-gloo.xml") for layout in LAYOUTS])
    assert found is not None
    assert found.sentence.startswith("Every layout with tp fails (tp2) and none without: a missing tensor-parallel reduction, ")
    assert "first at Layer 0 Attention Output (about 1/tp of it is left: scaled by 0." in found.sentence
    assert (found.group, found.certain) == ("tensor parallelism", True)
    assert f"\nDiagnosis: {found.sentence}.\n" in done.stdout

"""The site, built in its own environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT

PYTHON = ROOT / ".nox" / "docs" / "bin" / "python"


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The site as `nox -s docs` builds it."""
    if not PYTHON.exists():
        pytest.skip("nox -s docs makes the environment that the site is built in; run it once")
    strict = ("--fail-on-warning", "--keep-going", "--nitpicky", "--quiet")
    command = [str(PYTHON), "-m", "sphinx", "--builder", "html", *strict, str(docs), str(out)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    return subprocess.run(command, env=plain, capture_output=True, text=True, timeout=1800, check=False)

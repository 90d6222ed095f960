"""Where GPU sessions keep what they have compiled: one folder for what fits one torch and one Python."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

import pytest

from ci import wheels

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_requirements() -> None:
    text = (ROOT / "requirements" / "te.txt").read_text(encoding="utf-8")
    assert f"=={wheels.pinned(text)}\n" in text
    assert wheels.pinned("# one\ntransformer-engine[core_cu13,pytorch]==2.11.0  \nother==3\n") == "2.11.0"


def test_a_version_that_is_not_pinned_is_said() -> None:
    with pytest.raises(ValueError, match=re.escape("pins no version of transformer-engine; write transformer-engine[...]==")):
        wheels.pinned("transformer-engine>=2.11\n")


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({wheels.VARIABLE: "/kept", "HOME": "/home/runner"}, "/kept"),
        ({wheels.VARIABLE: "", "HOME": "/home/runner"}, "/home/runner/.cache/plumbline/wheels"),
        ({"HOME": "/home/runner"}, "/home/runner/.cache/plumbline/wheels"),
        ({}, "/.cache/plumbline/wheels"),
    ],
)
def test_each_torch_and_python_has_a_folder(environment: dict[str, str], place: str) -> None:
    """What is compiled for one cannot be loaded with another."""
    found = wheels.folder(environment, "2.11.0+cu130")
    assert found == Path(place) / f"torch-2.11.0+cu130-{sys.implementation.cache_tag}-{platform.machine()}"
    assert found != wheels.folder(environment, "2.12.0")


def test_a_wheel_of_the_version_is_found(tmp_path: Path) -> None:
    """Not one of another version, nor of another part."""
    assert wheels.kept(tmp_path / "nowhere", "2.11.0") is None
    for name in ("transformer_engine_torch-2.11.0.post1-cp312.whl", "transformer_engine_cu13-2.11.0-py3.whl", "a-2.11.0.whl"):
        (tmp_path / name).touch()
    assert wheels.kept(tmp_path, "2.11.0") is None
    wheel = tmp_path / "transformer_engine_torch-2.11.0-cp312-cp312-linux_x86_64.whl"
    wheel.touch()
    assert wheels.kept(tmp_path, "2.11.0") == wheel

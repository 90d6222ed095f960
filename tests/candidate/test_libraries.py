"""The cuDNN that a process has loaded is told with its version and its files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from validation.candidate.libraries import cudnn

_LINE = "7f00-7f10 r-xp 00000000 fe:00 123    {}\n"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_each_library_is_named_once(tmp_path: Path) -> None:
    """NVIDIA counts its version in hundreds."""
    paths = []
    for folder, number in (("torch", 91900), ("system", 91402)):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "libcudnn.so.9")
        source = tmp_path / "version.c"
        source.write_text(f"unsigned long cudnnGetVersion(void) {{ return {number}; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", paths[-1], source], check=True)
    maps = "".join(_LINE.format(path) for path in (*paths, paths[0], "/usr/lib/libcudnn_ops.so.9", "/usr/lib/libc.so.6"))
    assert cudnn(maps) == f"9.19.0 ({paths[0]}, {paths[1]})"


def test_a_library_that_does_not_say_its_version_is_named(tmp_path: Path) -> None:
    """And a process without one says nothing."""
    (tmp_path / "libcudnn.so.9").write_text("no library")
    assert cudnn(_LINE.format(tmp_path / "libcudnn.so.9")) == f"? ({tmp_path / 'libcudnn.so.9'})"
    assert cudnn(_LINE.format("/usr/lib/libc.so.6")) == ""

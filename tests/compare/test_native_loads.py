"""The compiled pass's file as processes load it: one that is not as it was written ends none of them, and is compiled again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from validation.compare import native

_LOADS = """
import os, sys
from validation.compare import native

for cache in sys.argv[1:]:
    os.environ["PLUMBLINE_CACHE"] = cache
    child = os.fork()
    if child == 0:
        os._exit(0 if native.library() is not None else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def loads(*caches: Path, **variables: str) -> list[int]:
    """How a process ends that loads the compiled file: 0 if it did, 1 if there is none, -7 by SIGBUS. One for each cache."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADS, *map(str, caches)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    return [int(line) for line in done.stdout.split()]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled file in a cache of its own."""
    cache = tmp_path_factory.mktemp("cache")
    if loads(cache) != [0]:
        pytest.skip("no C compiler here")
    (path,) = (cache / "native").iterdir()
    return path


def lies(kept: Path, cache: Path) -> Path:
    """The same file in another cache."""
    (cache / "native").mkdir(parents=True)
    return Path(shutil.copy2(kept, cache / "native"))


def another_library(path: Path) -> None:
    """A library with the functions that are looked for, which end the process when it is loaded."""
    text = "#include <unistd.h>\n__attribute__((constructor)) void plumbline_difference(void) { _exit(77); }"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)], input=text, text=True, check=True)


def flip(path: Path) -> None:
    code = bytearray(path.read_bytes())
    code[len(code) // 2] ^= 1
    path.write_bytes(code)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.unlink()
    another_library(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a page": lambda path: os.truncate(path, 4096),
    "empty": lambda path: os.truncate(path, 0),
    "a terabyte": lambda path: os.truncate(path, 1 << 40),
    "a bit": flip,
    "another library": another_library,
    "a pipe": a_pipe,
    "a link": a_link,
    "anybody may write": lambda path: path.chmod(0o666),
    "the group may write": lambda path: path.chmod(0o664),
}


@pytest.fixture(scope="module")
def damaged(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """The file of a cache after each damage and another process's use of it, and how that process ended."""
    paths = {name: lies(kept, tmp_path_factory.mktemp("cache")) for name in DAMAGES}
    for name, path in paths.items():
        DAMAGES[name](path)
    ended = loads(*(path.parents[1] for path in paths.values()))
    return {name: (path, code) for (name, path), code in zip(paths.items(), ended, strict=True)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_compiled_file_that_is_not_as_it_was_written_is_compiled_again(
    kept: Path, damaged: dict[str, tuple[Path, int]], damage: str
) -> None:
    """It is not loaded: a shortened one killed the process with SIGBUS."""
    path, ended = damaged[damage]
    assert ended == 0
    assert path.read_bytes() == kept.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644
    assert {one.name for one in path.parent.iterdir()} - {"elsewhere"} == {path.name}


def test_a_sound_compiled_file_is_not_compiled_again(kept: Path, tmp_path: Path) -> None:
    """There is no compiler now, and the file is marked as used."""
    path = lies(kept, tmp_path)
    os.utime(path, (0, 0))
    assert loads(tmp_path, PATH="") == [0]
    assert path.stat().st_mtime > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_user_s_compiled_file_is_not_loaded(kept: Path, tmp_path: Path) -> None:
    """Whoever may write to a shared cache may name a file by the digest of what it holds."""
    path = lies(kept, tmp_path)
    another_library(path)
    path = path.rename(path.with_name(f"difference-{native._digest()}-{native._digest_of(path.read_bytes())}.so"))
    os.chown(path, 12345, 12345)
    assert loads(tmp_path) == [0]


def test_a_cache_that_cannot_be_written_to_still_has_the_compiled_pass(kept: Path, tmp_path: Path) -> None:
    """It is compiled for this process alone."""
    (tmp_path / "native").write_text("no folder")
    assert loads(tmp_path) == [0]

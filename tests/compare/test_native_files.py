"""The compiled pass's file in this process: how it is made, named, kept and looked at, and what is said where there is none.

tests/compare/test_native_loads.py loads such files, each in a process of its own, which a wrong one could end.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from validation.compare import native
from validation.compare.sums import Sums

CODE = b"\x7fELF and more"
NAME = f"difference-{{}}-{hashlib.sha256(CODE).hexdigest()[:32]}.so"


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache of its own, and a process that has asked for no library yet."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(native, "_reasons", [])
    library = native.library
    library.cache_clear()
    yield
    library.cache_clear()


def kept() -> Path:
    """The file that the code is kept in."""
    native._keep(CODE)
    (path,) = native._kept()
    return path


def test_a_file_is_kept_under_the_digests_of_what_it_is_made_of_and_of_its_bytes(tmp_path: Path) -> None:
    """Nobody but its user may write to it, whatever a new file is given; nothing else is left."""
    before = os.umask(0)
    try:
        path = kept()
    finally:
        os.umask(before)
    assert path == tmp_path / "cache" / "native" / NAME.format(native._digest())
    assert path.read_bytes() == CODE
    assert path.stat().st_mode & 0o777 == 0o644
    native._keep(CODE)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_is_kept_of_other_sources_is_not_looked_at() -> None:
    """Of this one all that there is, in order."""
    path = kept()
    for name in (f"difference-{native._digest()}-b.so", f"difference-{native._digest()}-a.txt", "difference-0-a.so"):
        path.with_name(name).touch()
    assert native._kept() == sorted([path, path.with_name(f"difference-{native._digest()}-b.so")])


def test_a_file_gets_its_name_when_it_is_whole_or_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written beside its place, under a name that nobody looks for."""
    moved: list[Path] = []

    def refuse(unfinished: str, path: Path) -> None:
        assert Path(unfinished).read_bytes() == CODE
        moved.append(Path(unfinished))
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        native._keep(CODE)
    (unfinished,) = moved
    assert unfinished.parent == native._folder()
    assert unfinished.name.startswith(".part-")
    assert list(native._folder().iterdir()) == []


def test_a_sound_file_is_read_and_marked_as_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be marked is read all the same."""
    path = kept()
    os.utime(path, (0, 0))
    assert native._checked(path) == CODE
    assert path.stat().st_mtime > 0

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "root's")

    monkeypatch.setattr(os, "utime", refuse)
    assert native._checked(path) == CODE


def refused(path: Path) -> tuple[int | None, str, str]:
    with pytest.raises(OSError, match=str(path)) as raised:
        native._checked(path)
    return raised.value.errno, str(raised.value.strerror), str(raised.value.filename)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o620, 0o602])
def test_a_file_that_somebody_else_may_write_to_is_refused(mode: int) -> None:
    path = kept()
    path.chmod(mode)
    assert refused(path) == (errno.EPERM, "somebody else may write to it", str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_is_this_user_s_or_root_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's is refused."""
    path = kept()
    for owner, user, sound in ((0, 0, True), (0, 5, True), (5, 5, True), (5, 0, False), (5, 7, False)):
        os.chown(path, owner, -1)
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        if sound:
            assert native._checked(path) == CODE
        else:
            assert refused(path) == (errno.EPERM, "somebody else may write to it", str(path))


def test_a_file_as_large_as_may_be_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more is not, nor is what is no regular file."""
    path = kept()
    monkeypatch.setattr(native, "_LARGEST", len(CODE))
    assert native._checked(path) == CODE
    monkeypatch.setattr(native, "_LARGEST", len(CODE) - 1)
    assert refused(path) == (errno.EINVAL, "it is no compiled file", str(path))
    path.unlink()
    os.mkfifo(path, 0o600)
    assert refused(path) == (errno.EINVAL, "it is no compiled file", str(path))
    path.unlink()
    path.symlink_to("elsewhere")
    path.with_name("elsewhere").write_bytes(CODE)
    assert refused(path)[0] == errno.ELOOP


def test_a_file_with_other_bytes_than_its_name_says_is_refused() -> None:
    path = kept()
    path.write_bytes(CODE + b"!")
    assert refused(path) == (errno.EIO, "its bytes are not those that were compiled", str(path))


class Compiler:
    """Stands for the compiler: writes the code to the file that it is told to write."""

    def __init__(self) -> None:
        self.ran: list[tuple[list[str], dict[str, Any]]] = []

    def __call__(self, command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        """As subprocess.run."""
        self.ran.append((command, how))
        Path(command[command.index("-o") + 1]).write_bytes(CODE)
        return subprocess.CompletedProcess(command, 0)


def test_the_compiler_writes_to_a_private_folder_and_what_it_made_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the flags of this processor, and for no longer than a minute."""
    compiler = Compiler()
    monkeypatch.setattr(subprocess, "run", compiler)
    monkeypatch.setenv("CC", "my-cc -m64")
    assert native._compiled() == CODE
    ((command, how),) = compiler.ran
    made = Path(command[command.index("-o") + 1])
    flags = ["-O3", "-march=native", "-shared", "-fPIC"]
    assert command == ["my-cc", "-m64", *flags, "-o", str(made), str(native.SOURCE)]
    assert how == {"check": True, "capture_output": True, "text": True, "timeout": 300}
    assert made.name == "difference.so"
    assert made.parent.name.startswith("plumbline-")
    assert not made.parent.exists()
    assert [path.read_bytes() for path in native._kept()] == [CODE]


def test_what_cannot_be_kept_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "run", Compiler())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "native").write_text("no folder")
    assert native._compiled() == CODE


def test_code_is_loaded_from_memory_or_from_a_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latter if the system has no files in memory, or runs none."""
    opened: list[tuple[str, bytes]] = []
    refuses = {"/proc"}

    def load(path: str) -> str:
        opened.append((path, Path(path).read_bytes()))
        if any(path.startswith(place) for place in refuses):
            raise OSError(errno.EACCES, "noexec")
        return f"library {len(opened)}"

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert native._opened(CODE) == "library 2"  # type: ignore[comparison-overlap]
    (memory, first), (private, second) = opened
    assert memory.startswith("/proc/self/fd/")
    assert (Path(private).name, Path(private).parent.name.startswith("plumbline-")) == ("difference.so", True)
    assert (first, second) == (CODE, CODE)
    assert not Path(private).parent.exists()
    refuses.clear()
    assert native._opened(CODE) == "library 3"  # type: ignore[comparison-overlap]
    monkeypatch.delattr(os, "memfd_create")
    assert native._opened(CODE) == "library 4"  # type: ignore[comparison-overlap]
    assert not opened[-1][0].startswith("/proc")


def test_a_file_in_memory_is_called_by_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc/PID/maps shows it."""
    monkeypatch.setattr(ctypes, "CDLL", os.readlink)
    assert "/memfd:plumbline-difference" in str(native._opened(CODE))


def test_functions_are_called_with_the_types_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is cut to 32 bits would end the process."""
    library = SimpleNamespace(plumbline_difference=SimpleNamespace(), plumbline_digest=SimpleNamespace())
    monkeypatch.setattr(native, "_opened", {CODE: library}.__getitem__)
    assert native._loaded(CODE) is library
    pointer, kind, count = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    places = [ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_int64)]
    assert vars(library.plumbline_difference) == {"argtypes": [pointer, kind, pointer, kind, count, *places], "restype": None}
    assert vars(library.plumbline_digest) == {"argtypes": [pointer, count], "restype": ctypes.c_uint64}


def test_of_several_files_the_first_sound_one_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one may not be loaded, or lacks a function; nothing is compiled, and it is loaded once."""
    loaded: list[bytes] = []

    def checked(path: Path) -> bytes:
        if path.name == "a":
            raise OSError(errno.EIO, "a")
        return path.name.encode()

    def load(code: bytes) -> str:
        loaded.append(code)
        if code == b"b":
            raise AttributeError("b")
        return code.decode()

    monkeypatch.setattr(native, "_kept", lambda: [Path(name) for name in "abcd"])
    monkeypatch.setattr(native, "_checked", checked)
    monkeypatch.setattr(native, "_loaded", load)
    monkeypatch.setattr(native, "_compiled", lambda: b"anew")
    assert [native.library(), native.library()] == ["c", "c"]
    assert native.why() == ""
    assert loaded == [b"b", b"c"]
    native.library.cache_clear()
    monkeypatch.setattr(native, "_kept", list)
    assert native.library() == "anew"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "cc"), "no C compiler (cc) is installed"),
        (FileNotFoundError(errno.ENOENT, "No such file", "gcc"), "difference.c: [Errno 2] No such file: 'gcc'"),
        (PermissionError(errno.EACCES, "Not allowed", "cc"), "difference.c: [Errno 13] Not allowed: 'cc'"),
        (subprocess.CalledProcessError(1, ["cc", "-O3"], stderr="\n wrong \n"), "cc does not compile difference.c: wrong"),
        (
            subprocess.TimeoutExpired(["cc"], 60),
            "difference.c: Command '['cc']' timed out after 60 seconds",
        ),
        (AttributeError("no plumbline_digest"), "difference.c: no plumbline_digest"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else None,
)
def test_why_there_is_no_compiled_pass_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    """Nothing is measured by it then."""

    def fail() -> bytes:
        raise error

    monkeypatch.setattr(native, "_compiled", fail)
    assert native.library() is None
    assert native.why() == said
    assert not native.covers(torch.zeros(1))


@pytest.mark.parametrize(("variable", "command"), [(None, ["cc"]), ("", ["cc"]), ("gcc", ["gcc"]), ("a 'b c'", ["a", "b c"])])
def test_the_compiler_is_the_user_s(monkeypatch: pytest.MonkeyPatch, variable: str | None, command: list[str]) -> None:
    """Or cc."""
    if variable is not None:
        monkeypatch.setenv("CC", variable)
    assert native._compiler() == command


CPU = b"processor : 0\nmodel name : a \xff\nflags : sse avx\n"


def named(monkeypatch: pytest.MonkeyPatch, folder: Path, cpu: bytes | None = CPU) -> str:
    """The first digest in the name of a compiled file on a machine whose processor says this of itself."""
    described = folder / "cpuinfo"
    described.unlink(missing_ok=True)
    if cpu is not None:
        described.write_bytes(cpu)
    monkeypatch.setattr(native, "Path", lambda path: described if path == "/proc/cpuinfo" else Path(path))
    return native._digest()


def test_the_name_of_a_compiled_file_says_what_it_is_made_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It stays as it is from release to release: else every cache would be compiled anew."""
    monkeypatch.setattr(native, "SOURCE", tmp_path / "difference.c")
    native.SOURCE.write_bytes(b"int a;")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    made_of = b"int a;Linux x86_64 ['cc'] ('-O3', '-march=native', '-shared', '-fPIC')"
    assert named(monkeypatch, tmp_path) == hashlib.sha256(made_of + b"flags : sse avx").hexdigest()[:16]
    both = b"flags : b\nFeatures : a\nflags : b\n"
    assert named(monkeypatch, tmp_path, both) == hashlib.sha256(made_of + b"Features : aflags : b").hexdigest()[:16]
    assert named(monkeypatch, tmp_path, None) == hashlib.sha256(made_of).hexdigest()[:16]


def test_only_tensors_of_its_kinds_that_lie_in_one_piece_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them."""
    monkeypatch.setattr(native, "library", lambda: "one")
    square = torch.zeros(3, 3)
    assert native.covers(square, square.to(torch.bool), square.to(torch.int8)) is True
    assert not native.covers(square, square[:, 1])
    assert not native.covers(square.to(torch.complex64), square)


@pytest.mark.parametrize(
    ("length", "threads", "parts"),
    [
        (0, 3, [(0, 0)]),
        (3, 3, [(0, 3)]),
        (7, 3, [(0, 7)]),
        (8, 1, [(0, 8)]),
        (8, 3, [(0, 4), (4, 4)]),
        (11, 2, [(0, 6), (6, 5)]),
        (13, 3, [(0, 5), (5, 5), (10, 3)]),
        (100, 3, [(0, 34), (34, 34), (68, 32)]),
    ],
)
def test_a_tensor_has_as_many_parts_as_threads_are_worth_it(
    monkeypatch: pytest.MonkeyPatch, length: int, threads: int, parts: list[tuple[int, int]]
) -> None:
    """They follow each other, and each has a thread of its own."""
    pools: list[int] = []

    def pool(workers: int) -> ThreadPoolExecutor:
        pools.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(native, "_A_THREAD", 4)
    monkeypatch.setattr(native, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    asked = torch.zeros(length), torch.ones(length)

    def measure(candidate: torch.Tensor, reference: torch.Tensor, start: int, size: int) -> Sums:
        assert (candidate is asked[0], reference is asked[1]) == (True, True)
        return Sums((0.0, 0.0, 0.0, 0.0), 0.0, start, size)

    monkeypatch.setattr(native, "_pass", measure)
    found = native.sums(*asked)
    assert [tuple(vars(one).values())[-2:] for one in found] == parts
    assert pools == ([len(parts)] if len(parts) > 1 else [])


def test_a_digest_has_sixteen_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tensor's bytes, all of them."""
    tensor, asked = torch.zeros(3), []

    def digest(address: int, size: int) -> int:
        asked.append((address, size))
        return 171

    monkeypatch.setattr(native, "library", lambda: SimpleNamespace(plumbline_digest=digest))
    assert native.digest(tensor) == "00000000000000ab"
    assert asked == [(tensor.data_ptr(), 12)]


def test_a_part_is_measured_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tensors from their own address on, each by its own size of an element; its place counts from their start."""
    candidate, reference, asked = torch.zeros(9, dtype=torch.bfloat16), torch.zeros(9, dtype=torch.int64), []

    def difference(*words: Any) -> None:
        *given, found, places = words
        asked.append(given)
        found[:] = [1.0, 2.0, 3.0, 4.0, 5.0]
        places[:] = [6, 2]

    monkeypatch.setattr(native, "library", lambda: SimpleNamespace(plumbline_difference=difference))
    assert native._pass(candidate, reference, 3, 4) == Sums((1.0, 2.0, 3.0, 4.0), 5.0, 5, 6)
    assert asked == [[candidate.data_ptr() + 6, 2, reference.data_ptr() + 24, 4, 4]]

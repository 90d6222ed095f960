"""The cache forgets what was used longest ago and what dead processes left, and nothing that a living process uses."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from validation.cache import forget, locks

ROOT = Path(__file__).parents[2]
NOW = time.time()


@pytest.fixture(autouse=True)
def none_in_use() -> Iterator[None]:
    yield
    locks.let_all_go()


def key(number: int) -> str:
    return f"{number:024x}"


def reference(home: Path, number: int, size: int = 1000, age: float = 0.0, made: float = 0.0) -> Path:
    """A reference of `size` bytes that was used `age` seconds ago and finished `made` seconds ago."""
    folder = home / "references" / f"{key(number)}-{os.urandom(4).hex()}"
    folder.mkdir(parents=True)
    (folder / "probes.safetensors").write_bytes(b"x" * (size - 2))
    (folder / "reference.json").write_text("{}")
    (folder / locks.LOCK).touch()
    os.utime(folder / "reference.json", (NOW - made, NOW - made))
    os.utime(folder / locks.LOCK, (NOW - age, NOW - age))
    return folder


@contextlib.contextmanager
def another_process(does: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A process that does it, says so, and lives until it is killed with -9 or the context ends."""
    imports = "import sys, time\nfrom pathlib import Path\nfrom validation.cache import forget, locks"
    code = f"{imports}\n{does}\nprint('done', flush=True)\ntime.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
            yield process
        finally:
            process.kill()


USES = "assert locks.use(Path(sys.argv[1]))"
WRITES = (
    "folder = locks.new_folder(Path(sys.argv[1]), forget.UNFINISHED); (folder / 'probes.safetensors').write_bytes(b'x' * 500)"
)


def test_what_was_used_longest_ago_is_forgotten_first(tmp_path: Path) -> None:
    """Down to the limit and no further, whatever order they were made in."""
    folders = {age: reference(tmp_path, age, age=age, made=100 - age) for age in (30, 10, 20, 40)}
    assert forget.forget(tmp_path, 2500).size == 2000
    assert [age for age, folder in folders.items() if folder.exists()] == [10, 20]


def test_use_is_remembered(tmp_path: Path) -> None:
    """The oldest has been used since."""
    old, young = reference(tmp_path, 1, age=40), reference(tmp_path, 2, age=20)
    assert locks.use(old)
    locks.let_all_go()
    forget.forget(tmp_path, 1500)
    assert (old.exists(), young.exists()) == (True, False)


def test_nothing_is_forgotten_within_the_limit_or_without_one(tmp_path: Path) -> None:
    folders = [reference(tmp_path, number, age=number) for number in range(3)]
    assert forget.forget(tmp_path, 3000) == forget.Contents(3000, 3)
    assert forget.forget(tmp_path, None) == forget.Contents(3000, 3)
    assert all(folder.exists() for folder in folders)


def test_what_another_process_uses_stays_until_it_is_killed(tmp_path: Path) -> None:
    """With kill -9, which leaves it no time to say so."""
    folder, other = reference(tmp_path, 1, age=40), reference(tmp_path, 2, age=20)
    with another_process(USES, folder) as process:
        assert forget.forget(tmp_path, 0) == forget.Contents(1000, 1)
        assert (folder.exists(), other.exists()) == (True, False)
        process.kill()
        process.wait()
        assert forget.forget(tmp_path, 0) == forget.Contents(0, 0)
    assert not folder.exists()


def test_what_this_process_uses_stays_until_it_lets_go(tmp_path: Path) -> None:
    """An entry that alone is above the limit, too: it is needed now."""
    folder = reference(tmp_path, 1, size=10**6)
    assert locks.use(folder)
    assert forget.forget(tmp_path, 1000).size == 10**6
    locks.let_go(folder)
    assert forget.forget(tmp_path, 1000).size == 0


def test_what_is_half_written_stays_while_its_writer_lives(tmp_path: Path) -> None:
    """It counts, so that others give way, and is forgotten when its writer has been killed."""
    folder = reference(tmp_path, 1)
    with another_process(WRITES, folder.parent) as process:
        assert forget.forget(tmp_path, 1400) == forget.Contents(500, 0)
        process.kill()
        process.wait()
        assert forget.forget(tmp_path, None) == forget.Contents(0, 0)
    assert [path.name for path in (tmp_path / "references").iterdir()] == [locks.LOCK]


@pytest.mark.parametrize("name", [".unfinished-ab12cd34", ".forgotten-0123abcd"])
def test_leftovers_of_the_dead_are_forgotten_within_the_limit(tmp_path: Path, name: str) -> None:
    """With a lock file or, by a version that had none, without."""
    folder = reference(tmp_path, 1)
    left = folder.rename(folder.with_name(name))
    (left / locks.LOCK).unlink()
    assert forget.forget(tmp_path, None).size == 0
    assert not left.exists()


def test_a_newer_reference_of_the_same_case_replaces_the_older(tmp_path: Path) -> None:
    """Unless somebody uses the older."""
    old, new = reference(tmp_path, 1, made=50, age=0), reference(tmp_path, 1, made=10, age=5)
    with another_process(USES, old):
        assert forget.forget(tmp_path, None) == forget.Contents(2000, 1)
    forget.forget(tmp_path, None)
    assert (old.exists(), new.exists()) == (False, True)


def test_compiled_files_count_and_are_forgotten_like_references(tmp_path: Path) -> None:
    """And what compiling left behind, when nobody compiles any more."""
    folder, native = reference(tmp_path, 1, age=10), tmp_path / "native"
    native.mkdir()
    for name, age in (("difference-0123456789abcdef-00.so", 20), (".part-x", 9999), (".part-y", 1)):
        (native / name).write_bytes(b"x" * 100)
        os.utime(native / name, (NOW - age, NOW - age))
    assert forget.forget(tmp_path, 1150) == forget.Contents(1100, 1)
    assert [path.name for path in native.iterdir()] == [".part-y"]
    assert folder.exists()


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    """The cache's folder may be somebody's home: other names, and links to what lies elsewhere."""
    elsewhere = reference(tmp_path / "elsewhere", 7)
    kept = reference(tmp_path, 1).with_name("notes")
    kept.mkdir()
    (kept / "mine").write_text("x")
    (tmp_path / "thesis").write_text("x")
    (tmp_path / "references" / key(7)).symlink_to(elsewhere)
    assert forget.forget(tmp_path, 0) == forget.Contents(0, 0)
    assert (kept / "mine").exists()
    assert (tmp_path / "thesis").exists()
    assert (elsewhere / "reference.json").exists()


def test_two_processes_that_forget_at_once_forget_what_one_would(tmp_path: Path) -> None:
    """Each of several has the turn once; together they do not go below the limit."""
    folders = [reference(tmp_path, number, age=number) for number in range(40)]
    code = "import sys; from pathlib import Path; from validation.cache import forget; "
    code += "forget._PATIENCE = 600; print(forget.forget(Path(sys.argv[1]), 10500).size)"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate()[0] for process in started] == ["10000\n"] * 4
    assert [folder.exists() for folder in folders] == [True] * 10 + [False] * 30


def test_one_that_stands_still_holds_nobody_up_for_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that was stopped while it forgot: the next waits a while, forgets nothing, and goes on."""
    folder = reference(tmp_path, 1)
    monkeypatch.setattr(forget, "_PATIENCE", 0.2)
    with another_process(USES, folder.parent):
        assert forget.forget(tmp_path, 0).size == 1000


def test_a_reference_that_is_being_deleted_is_not_taken(tmp_path: Path) -> None:
    """Nor is one that was deleted between the look and the lock."""
    folder = reference(tmp_path, 1)
    with locks.alone(folder) as unused:
        assert unused
        assert not locks.use(folder)
        moved = locks.out_of_the_way(folder)
        assert not locks.use(folder)
    assert moved.exists()
    assert not locks.use(folder)


def test_a_new_folder_that_somebody_tidies_up_at_once_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between making the folder and locking it another process may take it for left over."""
    (tmp_path / "references").mkdir()
    use, seen = locks.use, list[Path]()

    def tidied_up_first(folder: Path) -> bool:
        seen.append(folder)
        if len(seen) < 3:
            forget.forget(tmp_path, None)
        return use(folder)

    monkeypatch.setattr(locks, "use", tidied_up_first)
    folder = locks.new_folder(tmp_path / "references", forget.UNFINISHED)
    assert (len(seen), folder.exists()) == (3, True)


def test_without_locks_nothing_is_forgotten_and_everything_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A network file system: nobody can know what another machine uses."""

    def none(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    folder = reference(tmp_path, 1)
    monkeypatch.setattr(fcntl, "flock", none)
    assert locks.use(folder)
    locks.let_all_go()
    made = locks.new_folder(folder.parent, forget.UNFINISHED)
    locks.let_all_go()
    assert forget.forget(tmp_path, 0).size == 1000
    assert made.exists()


def test_where_no_lock_file_can_be_made_a_folder_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locks, "_opened", lambda path: None)
    with pytest.raises(OSError, match="no lock file can be made"):
        locks.new_folder(tmp_path, forget.UNFINISHED)


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert forget.forget(tmp_path / "nowhere", 0) == forget.Contents(0, 0)
    assert not (tmp_path / "nowhere").exists()


def test_more_in_use_than_the_limit_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With both numbers and what sets another limit; a command goes on."""
    folder = reference(tmp_path, 1, size=3 * 10**6)
    assert locks.use(folder)
    for most in (5 * 10**6, None, 2 * 10**6, 2 * 10**6):
        forget.keep_within(tmp_path, most)
    said = f"note: of the cache {tmp_path} 3.0 MB are in use, more than its limit of 2.0 MB; --cache-limit or "
    assert capsys.readouterr().err == f"{said}$PLUMBLINE_CACHE_LIMIT sets another\n"

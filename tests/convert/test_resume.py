"""A conversion that was interrupted goes on, and what it left is never taken for a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.convert import folders
from tests.convert.folders import MODEL
from tests.convert.test_round_trip import back, convert
from validation.cli import main
from validation.convert import formats, work

ROOT = Path(__file__).parents[2]
STANDS_STILL = """
import sys, time
from pathlib import Path
from validation.convert import parts, to_torch_dist, to_legacy
to_torch_dist._LEAST = 100_000
put = parts.Stream.put
def until_three_are_done(self, taken, source):
    while sys.argv[1] and len(list(Path(sys.argv[1]).glob("release*.json"))) >= 3:
        time.sleep(60)
    put(self, taken, source)
parts.Stream.put = until_three_are_done
from validation.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    return folders.write(tmp_path / "hf", MODEL, folders.weights(MODEL))


def command(origin: Path, out: Path) -> list[str]:
    return ["convert", "--hf-model-path", str(origin), "--save", str(out), "--layout", "tp2", "--jobs", "2"]


def of_group(group: int) -> list[int]:
    """The processes of a group that are still there, those apart that have ended and are not yet waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_killed_in_the_middle(origin: Path, tmp_path: Path) -> None:
    """SIGKILL leaves no process and no checkpoint; the same command then writes what is left, and the result is the same."""
    out = tmp_path / "out"
    words, done = [sys.executable, "-c", STANDS_STILL], out.with_name("out.unfinished") / ".done"
    running = subprocess.Popen(
        [*words, str(done), *command(origin, out)], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    while len(list(done.glob("release*.json"))) < 3 and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    end = time.monotonic() + 60
    while of_group(running.pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert of_group(running.pid) == []
    assert not out.exists()
    with pytest.raises(Exception, match="no config"):
        formats.open_source(out.with_name("out.unfinished"))
    kept = {path.name: path.stat().st_mtime_ns for path in (out.with_name("out.unfinished") / "release").glob("*.distcp")}
    again = subprocess.run([*words, "", *command(origin, out)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "of it done before" in again.stdout
    noted = [name for name, when in kept.items() if (out / "release" / name).stat().st_mtime_ns == when]
    assert len(noted) >= 3
    assert not list(tmp_path.glob("*.unfinished"))
    assert not list(out.rglob("*.part"))
    assert folders.same(folders.read(back(out, tmp_path / "back")), folders.read(origin))


class Stop(Exception):
    """What ends a conversion after some parts."""


@pytest.fixture
def stopped(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unfinished folder of a conversion that ended after three parts."""
    monkeypatch.setattr("validation.convert.to_torch_dist._LEAST", 100_000)
    write, count = work._write, iter(range(100))

    def three(*given: object) -> object:
        if next(count) == 3:
            raise Stop
        return write(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(work, "_write", three)
        with pytest.raises(Stop):
            convert(origin, tmp_path / "out")
    return tmp_path / "out.unfinished"


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are written from now on."""
    write, names = work._write, []

    def noting(*given: object) -> object:
        names.append(given[2].name)  # type: ignore[attr-defined]
        return write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "_write", noting)
    return names


def noted(unfinished: Path) -> list[str]:
    return [path.name.removesuffix(".json").replace("+", "/") for path in (unfinished / ".done").glob("release*.json")]


def test_what_is_done_is_not_done_again(stopped: Path, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is left."""
    before, names = noted(stopped), written(monkeypatch)
    convert(origin, tmp_path / "out")
    assert len(before) == 3
    assert names
    assert set(before).isdisjoint(names)


def test_a_part_that_was_damaged_meanwhile(
    stopped: Path, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is not what was noted: it is written again."""
    damaged, names = noted(stopped)[0], written(monkeypatch)
    with (stopped / damaged).open("r+b") as file:
        file.seek(2000)
        file.write(b"\x55\xaa")
    convert(origin, tmp_path / "out")
    assert damaged in names
    assert folders.same(folders.read(back(tmp_path / "out", tmp_path / "back")), folders.read(origin))


@pytest.mark.parametrize("change", ["another layout", "another input"])
def test_another_conversion_begins_anew(
    change: str, stopped: Path, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of other weights, or cut otherwise, are of no use."""
    before, names = noted(stopped), written(monkeypatch)
    words = ["--layout", "tp2"] if change == "another layout" else []
    if change == "another input":
        weights = folders.weights(MODEL, seed=1)
        origin = folders.write(tmp_path / "other", MODEL, weights)
    convert(origin, tmp_path / "out", *words)
    assert set(before) <= set(names)
    assert folders.same(folders.read(back(tmp_path / "out", tmp_path / "back")), folders.read(origin))


def test_the_manifest_lists_every_file(origin: Path, tmp_path: Path) -> None:
    """With the size and the checksum that it has."""
    from validation.convert.unfinished import crc32_of

    out = convert(origin, tmp_path / "out", "--layout", "tp2", "--format", "legacy")
    manifest = json.loads((out / "plumbline.json").read_text())
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file() and path.name != "plumbline.json"}
    assert manifest["files"].keys() == files.keys()
    for name, path in files.items():
        assert manifest["files"][name] == {"bytes": path.stat().st_size, "crc32": f"{crc32_of(path):08x}"}


def test_progress_is_a_line_now_and_then(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To standard error, with rate and time left; none for what is done at once."""
    convert(origin, tmp_path / "quick")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("validation.convert.progress.EVERY", 0.0)
    convert(origin, tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1
    assert all(line.startswith("convert: ") and "/s" in line and line.endswith(" left") for line in lines)


def test_main_tells_how_it_goes_on(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is no traceback."""

    def interrupted(*given: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "_write", interrupted)
    assert main(["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out"), "--jobs", "1"]) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err

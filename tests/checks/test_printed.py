"""What a plugin prints is to be seen where one looks into the ranks."""

from __future__ import annotations

from pathlib import Path

from tests.checks.conftest import warm
from validation.checks.printed import MOST, printed

SHARED = ("run", "-v", "--set", "num_layers=1", "--seq-length", "8", "--layouts", "tp2", "--steps", "0")


def log(folder: Path, rank: int, text: str) -> None:
    """As torch elastic leaves it."""
    place = folder / "logs" / "0123_abc" / "attempt_0" / str(rank)
    place.mkdir(parents=True)
    (place / "stdout.log").write_text(text)


def test_of_what_ranks_print_that_of_rank_0_is_shown(tmp_path: Path) -> None:
    """With the place where the others' is."""
    log(tmp_path, 0, "one\ntwo\n")
    log(tmp_path, 1, "three\n")
    assert list(printed(tmp_path)) == [
        f"Printed in the ranks: {tmp_path / 'logs'} has it, and what rank 0 printed is",
        "    one",
        "    two",
    ]


def test_much_is_cut(tmp_path: Path) -> None:
    log(tmp_path, 0, "line\n" * (MOST + 7))
    lines = list(printed(tmp_path))
    assert (len(lines), lines[-1]) == (MOST + 2, "    ... and 7 more lines")


def test_ranks_that_print_nothing_are_not_mentioned(tmp_path: Path) -> None:
    log(tmp_path, 0, "")
    assert list(printed(tmp_path)) == []
    assert list(printed(tmp_path / "none")) == []


def test_a_plugin_that_prints_is_seen_with_debug(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "prints.py"
    file.write_text("def loaded(case, model):\n    print('weights are in')\n")
    done = warm([*SHARED, "--plugin", str(file), "--debug", "--results", str(tmp_path)], cache)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("Printed in the ranks: "))
    assert lines[start + 1 : start + 3] == ["    weights are in", "--- Run ---"]

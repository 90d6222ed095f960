"""How much the cache may hold: sizes as people write them, and a default that fits the disk."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import quick
from validation.cache import limit
from validation.case.errors import ExitCode, UsageError
from validation.run.options import parsed


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20 * 10**9),
        ("20G", 20 * 10**9),
        ("20gb", 20 * 10**9),
        (" 1.5 TB ", 1500 * 10**9),
        ("500MiB", 500 * 2**20),
        ("2Ti", 2 * 2**40),
        ("64kB", 64000),
        ("0B", 0),
        ("none", None),
        ("None", None),
    ],
)
def test_a_size_is_a_number_with_its_unit(text: str, size: int | None) -> None:
    assert limit.parsed(text, "") == size


@pytest.mark.parametrize(
    "text", ["", "20", "GB", "-1GB", "1e3GB", "20 G B", "1,5GB", "20GBs", "infGB", "nan", "٢٠GB", "0x10GB", "5iB"]
)
def test_anything_else_is_refused_with_what_would_work(text: str) -> None:
    """A number alone, too: whoever writes 20 means gigabytes, or bytes."""
    with pytest.raises(UsageError, match=re.escape(f"--cache-limit {text} is no size; give a number with its unit")) as raised:
        limit.parsed(text, "--cache-limit ")
    assert raised.value.exit_code == ExitCode.USAGE


@quick
@given(st.text() | st.from_regex(r"[0-9.]{1,40} ?[kKmMgGtTpPiIbB]{0,4}", fullmatch=True))
def test_any_text_is_a_size_or_a_sentence(text: str) -> None:
    try:
        size = limit.parsed(text, "")
    except UsageError:
        return
    assert size is None or size >= 0


def test_a_long_text_is_repeated_in_part() -> None:
    """A sentence stays one that can be read."""
    with pytest.raises(UsageError, match=r"^--cache-limit 9{120}\.\.\. is no size") as raised:
        limit.parsed("9" * 5000, "--cache-limit ")
    assert len(str(raised.value)) < 300


def test_the_option_counts_then_the_variable_then_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable that is set to nothing is not set; an option is none that is given empty."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    monkeypatch.setenv(limit.VARIABLE, "7GB")
    assert parsed(["--cache-limit", "3GB"]).cache_limit == 3 * 10**9
    assert parsed(["--cache-limit", "none"]).cache_limit is None
    assert parsed([]).cache_limit == 7 * 10**9
    monkeypatch.setenv(limit.VARIABLE, "")
    assert parsed([]).cache_limit == limit.default(tmp_path)
    with pytest.raises(UsageError, match="--cache-limit is empty"):
        parsed(["--cache-limit", ""])


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limit.VARIABLE, "much")
    with pytest.raises(UsageError, match=re.escape("$PLUMBLINE_CACHE_LIMIT=much is no size; give a number with its unit")):
        parsed([])


@pytest.mark.parametrize(("disk", "wanted"), [(30, 3), (252, 25.2), (8000, 100)])
def test_the_default_is_a_tenth_of_the_disk_up_to_100_gb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: int, wanted: float
) -> None:
    """Of the disk that the cache will be on, when its folder is not there yet."""
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(total=disk * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert limit.default(tmp_path / "not" / "there") == int(wanted * 10**9)
    assert asked == [tmp_path]


@pytest.mark.parametrize(
    ("size", "said"),
    [(None, "no limit"), (0, "0.0 kB"), (31_180_000_000, "31.2 GB"), (1_500_000, "1.5 MB"), (10**15, "1000.0 TB")],
)
def test_sizes_are_said_in_units_that_can_be_given(size: int | None, said: str) -> None:
    assert limit.written(size) == said


def test_the_help_has_the_option_and_its_variable() -> None:
    from validation.run.command_line import add_options
    from validation.scorecard.command import add_options as add_options_of_faults

    for add in (add_options, add_options_of_faults):
        parser = argparse.ArgumentParser()
        add(parser.add_argument)
        said = " ".join(parser.format_help().split())
        assert "--cache-limit SIZE" in said
        assert "$PLUMBLINE_CACHE_LIMIT, else a tenth of its disk, 100.0 GB at most" in said

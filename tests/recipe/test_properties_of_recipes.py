"""No file ends in a traceback: it is read, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import few
from tests.recipe.test_recipe_flags import SMALL
from tests.recipe.test_recipe_yaml import BRIDGE, FUNCTIONAL
from validation.case.errors import UsageError
from validation.recipe import parser, read, show

_FLAGS = sorted(parser.release("main").by_flag)
words = st.one_of(
    st.sampled_from(_FLAGS),
    st.sampled_from(["0", "-1", "1e-3", "true", "([0]*3+[1]*58)", "Et*2|(tt|)*5t|tmL", "10" * 30, "nan", "''", "fp8", "$X"]),
    st.text(max_size=8),
)
keys = st.sampled_from([*parser.release("main").fields["model"], "_target_", "vocab_size", "seq_length"])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


def is_read_or_refused(file: Path) -> None:
    """What is read can be shown; a refusal is one line."""
    said = ""
    try:
        said = show.text(read.read(file, "main"))
    except UsageError as refused:
        said = f"{refused}\n"
    assert said.endswith("\n")
    assert said.count("\n") == 1 or "what it trains" in said


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where each example is written."""
    return tmp_path / "recipe"


@few
@given(st.lists(words, max_size=12))
def test_any_flags(file: Path, said: list[str]) -> None:
    """Flags of the newest parser, values that fit and do not, and any text."""
    file.write_text(SMALL + " ".join(said), encoding="utf-8", errors="replace")
    is_read_or_refused(file)


@few
@given(st.sampled_from([SMALL, FUNCTIONAL, BRIDGE]), st.data())
def test_a_file_with_a_part_changed(file: Path, text: str, data: st.DataObject) -> None:
    """Something cut out of it, and something put in."""
    start = data.draw(st.integers(0, len(text)))
    end = min(start + data.draw(st.integers(0, 40)), len(text))
    put = data.draw(st.one_of(words, st.binary(max_size=6).map(lambda one: one.decode("latin-1"))))
    file.write_text(text[:start] + put + text[end:], encoding="utf-8", errors="replace")
    is_read_or_refused(file)


@few
@given(st.binary(max_size=60))
def test_any_bytes(file: Path, data: bytes) -> None:
    """Whatever a file holds."""
    file.write_bytes(data)
    is_read_or_refused(file)


@few
@given(st.dictionaries(keys, values, max_size=4))
def test_any_values_of_megatron_bridge(file: Path, said: dict[str, object]) -> None:
    """Values of any kind below the names of fields."""
    import yaml

    file.write_text(yaml.safe_dump({"model": said, "train": said}), encoding="utf-8", errors="replace")
    is_read_or_refused(file)

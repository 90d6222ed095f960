"""Whatever stands on the command line: settings, or one sentence, at once."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import quick
from validation.case import arrangement, preflight
from validation.case.errors import PlumblineError, UsageError
from validation.case.preset import TINY
from validation.case.training import OPTIONS, WORDS, Training, option
from validation.cli import main
from validation.run import plugin
from validation.run.command_line import DEGREES
from validation.run.options import Settings, parsed

number = st.integers(-2, 9).map(str) | st.sampled_from(
    ["0", "-1", "999999999999", "9" * 5000, "1e3", "", "٣", "1_0", "²", " 1"]
)
degree = st.sampled_from((*DEGREES, "nosp", "single", "x"))
layout = st.lists(st.tuples(degree, number).map("".join), min_size=1, max_size=3).map("".join)
word = (
    st.sampled_from((*WORDS, "mtp", "stream", "1-3"))
    | st.builds("mtp{}".format, number)
    | st.lists(number, max_size=3).map("-".join)
)
layouts = st.lists(st.tuples(layout, st.lists(word, max_size=2)).map(lambda one: "+".join((one[0], *one[1]))), max_size=2).map(
    ",".join
)
name = st.sampled_from((*TINY.model.as_dict(), "num_layers", "x"))
value = number | st.sampled_from(["nan", "inf", "none", "true", "1e300", "-0.0", "yarn"]) | st.text(max_size=4)
given_option = st.one_of(
    st.tuples(st.just("--layouts"), layouts | st.text(max_size=8)),
    st.tuples(st.just("--set"), st.tuples(name, value).map("=".join)),
    st.tuples(
        st.sampled_from(
            [f"--{one}" for one in (*DEGREES, "steps", "seed", "batch-size", "seq-length", "jobs", "micro-batch-size")]
        ),
        number,
    ),
    st.tuples(
        st.sampled_from([option(one) for one in OPTIONS]), st.sampled_from([one for words in OPTIONS.values() for one in words])
    ),
    st.tuples(
        st.sampled_from(["--preset", "--precision", "--implementation", "--transport", "--layers", "--case-timeout"]), value
    ),
)


def settled(words: list[str]) -> Settings | None:
    """What the words ask for, if it is not refused."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parsed(words)
    except (UsageError, SystemExit):
        return None


@quick
@given(given_=st.lists(given_option, max_size=4))
def test_options(given_: list[tuple[str, str]]) -> None:
    """Cases that can be asked whether they run here, and are said no in one sentence."""
    settings = settled([f"{option}={value}" for option, value in given_])
    for case in settings.cases if settings else ():
        with contextlib.suppress(PlumblineError):
            preflight.check(case, max_ranks=8, gpus=0, memory=8 << 30)


@quick
@given(text=layouts | st.text(max_size=12))
def test_layouts(text: str) -> None:
    """What is read has a name that is read back as the same."""
    try:
        found, training, mtp = arrangement.parse(text, Training())
    except UsageError:
        return
    again = "+".join((found.name, *training.words))
    assert arrangement.parse(again, Training())[:2] == (found, training)
    assert mtp is None or mtp > 0


@quick
@given(text=st.text(max_size=12) | st.builds("{}.py:{}".format, st.text(max_size=6), st.text(max_size=6)))
def test_names_of_plugins(text: str) -> None:
    with contextlib.suppress(UsageError):
        plugin.check(text)


@quick
@given(
    source=st.text(max_size=30)
    | st.sampled_from(["def built(", "(" * 5000, "x = 1\0", "-" * 100_000 + "1", "1" * 5000, "a." * 9000 + "b"])
)
def test_files_of_plugins(source: str, tmp_path: Path) -> None:
    """They are looked at, not run."""
    (tmp_path / "one.py").write_text(source, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(UsageError):
        plugin.check(str(tmp_path / "one.py"))


ABSURD = (
    ["--layouts", "tp999999999999"],
    ["--layouts", "cp131072dp131072"],
    ["--layouts", "pp2+" + "9" * 5000 + "-1"],
    ["--layouts", "single+mtp99999999"],
    ["--tp", "999999999999"],
    ["--set", "num_layers=1000000000"],
    ["--set", "n_routed_experts=1000000000"],
    ["--set", "rope_factor=1e300"],
    ["--steps", "1000000000"],
    ["--case-timeout", "inf"],
    ["--layers", "9" * 5000],
    ["--hf-model-path", "x" * 5000],
    ["--candidate-checkpoint", "x" * 300],
)


@pytest.mark.parametrize("words", ABSURD, ids=lambda words: " ".join(words)[:40])
def test_numbers_that_no_run_has(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence and 2, from the command itself."""
    assert main(["run", *words]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert len(said) < 4100

"""What a run of selected checks computes: no more than they need, and the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.checks.conftest import BROKEN, outputs_of

if TYPE_CHECKING:
    from tests.checks.conftest import Output

SHARED = ("--layouts", "tp2", "--set", "num_layers=2")
RUNS = {
    "whole": ("--debug", *SHARED),
    "weights": ("--debug", "--only", "Output Layer Weight", "--only", "Embedding Weight", *SHARED),
    "forward": ("--debug", "--only", "Layer ? Attention Output", "--only", "Loss", *SHARED),
    "backward": ("--debug", "--only", "Embedding Weight Gradient", *SHARED),
    "steps": ("--debug", "--only", "Step 2 Gradient Norm", *SHARED),
    "lower": ("--debug", "--precision", "bf16", "--only", "Layer 0 Attention Output", *SHARED),
    "known": ("--debug", "--only", "Layer 0 Input Norm Output", "--implementation", "local-stock", *SHARED),
    "broken": ("--only", "Logits", "--implementation", f"{BROKEN}:raises", *SHARED),
    "nothing": ("--only", "Attention Outputs", *SHARED),
}
STEPS = {
    "weights": {"model", "weights"},
    "forward": {"model", "weights", "gradient buffers", "forward"},
    "backward": {"model", "weights", "gradient buffers", "forward and backward", "gradients"},
}
STEPS["steps"] = {*STEPS["backward"], "step 1", "step 2"}
STEPS["lower"] = STEPS["known"] = STEPS["forward"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Each once; the first selected runs find no reference, and make one that goes no further."""
    names = ["weights", "forward", "backward", "whole", *RUNS]
    return outputs_of({name: RUNS[name] for name in dict.fromkeys(names)}, tmp_path_factory.mktemp("cache"), tmp_path_factory)


def steps_of(found: Output) -> set[str]:
    """What rank 0 said it was doing."""
    (progress,) = found.results.glob("debug/*/rank-0.progress")
    return set(progress.read_text().splitlines()) - {"process groups", "the end"}


@pytest.mark.parametrize("name", STEPS)
def test_ranks_go_no_further_than_the_checks_need(runs: dict[str, Output], name: str) -> None:
    """And the known bugs of other checks are not taken out in a second run: its folder would be there."""
    assert steps_of(runs[name]) == STEPS[name]


@pytest.mark.parametrize("name", ["weights", "forward", "backward", "steps"])
def test_the_numbers_are_those_of_the_whole_run(runs: dict[str, Output], name: str) -> None:
    """Whatever the reference was made for."""
    found, whole = runs[name], runs["whole"]
    titles = found.titles("PASS")
    assert found.code == 0
    assert len(titles) >= 1
    assert [found.line(title) for title in titles] == [whole.line(title) for title in titles]


def test_what_is_left_out_is_counted(runs: dict[str, Output]) -> None:
    """In the last line and in the file, of which the case is the same."""
    found, whole = runs["forward"], runs["whole"]
    count = len(whole.titles("PASS")) - len(found.titles("PASS"))
    assert f"Left out: {count} of {len(whole.titles('PASS'))} checks; a gate takes no results of such a run" in found.text
    said, all_of = (
        {one.get("name"): one.get("value") for one in output.suite("tiny-tp2-fp64-local-gloo").findall("properties/property")}
        for output in (found, whole)
    )
    assert said["left_out"] == str(count)
    assert said["case"] == all_of["case"]


def test_a_run_that_breaks_says_how_though_no_selected_check_does(runs: dict[str, Output]) -> None:
    found = runs["broken"]
    assert found.code == 1
    assert re.search(r"^ERROR: the run did not finish - rank \d raised ", found.text, re.M)
    assert re.search(r"^--- rank \d error ---$", found.text, re.M)


def test_a_name_of_nothing_ends_with_2_in_one_sentence(runs: dict[str, Output]) -> None:
    """No report is written."""
    found = runs["nothing"]
    assert found.code == 2
    assert "error: --only Attention Outputs: no check is called so; the nearest is 'Attention Output'\n" in found.text
    assert list(found.results.glob("*.xml")) == []


def test_last_failed_makes_what_failed(cache: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a report there is nothing to go by, and checks that were never made have not passed."""
    from tests.checks.conftest import commands_in_turn

    words = ["run", *SHARED, "--steps", "0", "--results", str(tmp_path)]
    broken = [*words, "--implementation", f"{BROKEN}:reduction_lost"]
    found = commands_in_turn(
        [
            [*words, "--last-failed"],
            [*broken, "--only", "Layer 0 Attention Output", "--only", "Layer 0 Value"],
            [*broken, "--last-failed"],
            [*words, "--only", "Layer 0 Value"],
            [*words, "--last-failed"],
        ],
        cache,
        tmp_path_factory.mktemp("texts"),
    )
    assert [code for code, _ in found] == [2, 1, 1, 0, 2]
    assert "has no report of these cases" in found[0][1]
    assert "FAIL: Layer 0 Attention Output" in found[2][1]
    assert "(1 check, 1 fail, " in found[2][1]
    assert re.search(r"^error: --last-failed: nothing failed before, but \d+ of \d+ checks were not made", found[4][1], re.M)

"""The catalogue in another implementation and precision: which cases have which faults, and what the page says of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ci.releases import OLDER
from tests.checks.conftest import warm
from validation.case.errors import UsageError
from validation.checks.order import RUN, place
from validation.faults import catalogue
from validation.scorecard import lane_page
from validation.scorecard.judge import BROKEN, ELSEWHERE, MISSED, SEEN, Clean, Outcome
from validation.scorecard.lane import KEPT, OWN, Lane
from validation.scorecard.measured import Measured, load, saved
from validation.scorecard.page import DATA
from validation.scorecard.record import Record, described
from validation.scorecard.report import hidden, sizes

FAULTS = catalogue.faults(OLDER.megatron_core)

(TE,) = KEPT
CPU = Lane(precision="bf16")


def test_in_its_own_lane_a_fault_has_the_case_of_its_file() -> None:
    for fault in FAULTS:
        assert [OWN.case(fault, layout) for layout in fault.layouts] == [fault.case(layout) for layout in fault.layouts]


@pytest.mark.parametrize("lane", [TE, CPU])
def test_a_case_has_the_check_that_must_see_the_fault(lane: Lane) -> None:
    trials = lane.trials(FAULTS)
    assert len(trials) > 100
    for trial in trials:
        assert place(trial.case, trial.fault.first_in(trial.case)) != RUN, trial.fault.id
        assert (trial.case.implementation, trial.case.precision) == (lane.implementation, "bf16")


@pytest.mark.parametrize(
    ("lane", "fault", "says"),
    [
        (CPU, "D13", "the weights of a bf16 model are bf16"),
        (CPU, "L18", "bf16 has no loss scale"),
        (TE, "B01", "Transformer Engine has an attention of its own"),
        (Lane("te"), "A01", "Transformer Engine needs GPUs"),
    ],
)
def test_where_there_is_no_case_a_sentence_says_why(lane: Lane, fault: str, says: str) -> None:
    found = catalogue.find(fault)
    assert says in lane.refusal(found, found.layouts[0])
    with pytest.raises(UsageError, match=says):
        lane.case(found, found.layouts[0])


def test_several_steps_in_bf16_are_small_as_those_of_a_run_are() -> None:
    """Unless the layout names a rate."""
    steps = catalogue.find("G02")
    assert CPU.case(steps, "single").training.effective("optimizer")["lr"] == 1e-3
    assert OWN.case(steps, "single").training.effective("optimizer")["lr"] != 1e-3
    rate = catalogue.find("L09")
    assert CPU.case(rate, rate.layouts[0]).training.effective("optimizer")["lr"] == 1e-4


def test_a_known_bug_is_taken_out_by_what_the_lane_has_of_it() -> None:
    """R19 shows only without one."""
    fault = catalogue.find("R19")
    case = CPU.case(fault, fault.layouts[0])
    assert case.mended
    assert (case.precision, case.implementation) == ("bf16", "local")


@pytest.mark.parametrize("name", ["B02", "B09", "B11"])
def test_a_fault_of_the_mask_is_put_where_the_mask_is_taken(name: str) -> None:
    """Transformer Engine ignores it otherwise; megatron-core's own spec does not."""
    fault = catalogue.find(name)
    for lane, bugs in ((TE, ("mask-ignored-by-transformer-engine",)), (CPU, ())):
        assert lane.case(fault, fault.layouts[0]).mended == bugs


A02, A13 = (Outcome(name, "single", SEEN, "a.check", "A Check", "A Check", error=0.5, limit=0.25) for name in ("A02", "A13"))
HIDDEN = replace(A13, status=MISSED, first="", error=0.012, limit=0.014, sound=0.008)


def test_a_fault_may_be_missed_if_rounding_may_be_as_large() -> None:
    assert hidden(HIDDEN, 0.011)
    assert hidden(HIDDEN, 0.014)
    assert not hidden(HIDDEN, 0.015)
    assert not hidden(HIDDEN, math.nan)
    assert not hidden(A13, 0.011)


def test_sizes_are_those_of_faults_that_are_seen_where_they_are() -> None:
    assert sizes(OWN) == {}
    found = sizes(TE)
    assert 0.01 < found["A13", "single"] < 0.02
    assert ("D09", "single") not in found


def test_on_a_gpu_every_fault_that_is_larger_than_rounding_was_caught() -> None:
    """In the data in docs; what could not be decided there is no row."""
    measured, found = load(TE.data), sizes(TE)
    assert {one.status for one in measured.outcomes} <= {SEEN, ELSEWHERE, MISSED}
    missed = [one for one in measured.outcomes if not one.caught and not catalogue.find(one.fault).unseen]
    assert [one.fault for one in missed if not hidden(one, found.get((one.fault, one.layout), math.nan))] == []
    assert all(one.checks and not one.failing and not one.says for one in measured.clean)
    possible = {(trial.fault.id, trial.layout) for trial in TE.trials(FAULTS)}
    assert {(one.fault, one.layout) for one in measured.outcomes} <= possible


def test_the_guide_has_the_figures_of_the_card() -> None:
    measured = load(TE.data)
    caught, seen = (sum(one.status in of for one in measured.outcomes) for of in ((SEEN, ELSEWHERE), (SEEN,)))
    count, every = len(TE.trials(FAULTS)), sum(len(fault.layouts) for fault in FAULTS)
    text = (DATA.parent / "faults.md").read_text(encoding="utf-8")
    table = text[text.index("| figure (one H200") :].split("\n\n")[0]
    figures = [f"{count} of {every}", f"{len(measured.outcomes)}", f"{caught}", f"{seen}"]
    figures += [f"{len(measured.outcomes) - caught}", f"0 of {len(measured.clean)}"]
    assert [line.split(" | ")[-1].rstrip(" |") for line in table.splitlines()[2:]] == figures


def test_a_record_is_gone_on_from(tmp_path: Path) -> None:
    """But for runs that broke, which run again."""
    path, tried = tmp_path / "kept.json", CPU.trials(map(catalogue.find, ("A02", "A13", "A14")))
    record = Record(path, "a machine")
    for one in (Clean("a-case", 9, ()), A02, replace(A13, status=BROKEN, says="a rank was lost")):
        record.add(one)
    again = Record(path, "a machine")
    assert [trial.fault.id for trial in again.left(tried)] == ["A13", "A14"]
    assert again.kept.outcomes == (A02,)
    failing = Clean("b-case", 9, ("FAIL: x",))
    again.add(failing)
    assert failing not in again.kept.clean
    again.add(HIDDEN)
    found = load(path)
    assert found.outcomes == (A02, HIDDEN)
    assert (found.machine, [one.case for one in found.clean]) == ("a machine", ["a-case", "b-case"])
    assert not list(tmp_path.glob("*.part"))


def test_a_record_of_another_machine_is_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    Record(path, "a machine").add(A02)
    with pytest.raises(UsageError, match="measure all of them"):
        Record(path, "another").left(CPU.trials([catalogue.find("A13")]))
    assert Record(path, "another").left(CPU.trials([catalogue.find("A02")])) == []
    assert Record(path, "another").machine == "a machine"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--record .*kept.json: no record of this command"):
        Record(path, "a machine")


def test_what_ran_is_described_with_its_card() -> None:
    facts = {"gpu": "1 x NVIDIA H200", "driver": "580", "torch": "2.11", "transformer-engine": "2.11.0"}
    facts |= {"megatron-core": "0.16.1", "transformers": "5.17.0"}
    assert "CPU cores with megatron-core 0.16.1 and transformers 5.17.0" in described(facts, on_cpu=True)
    said = described(facts, on_cpu=False)
    assert said.startswith("1 x NVIDIA H200 (driver 580) and ")
    assert said.endswith("with torch 2.11, Transformer Engine 2.11.0, megatron-core 0.16.1 and transformers 5.17.0")


def test_the_section_tells_what_is_hidden_what_is_seen_elsewhere_and_what_cannot_be() -> None:
    elsewhere = replace(A02, fault="A14", status=ELSEWHERE, first="B Check")
    missed = replace(HIDDEN, fault="A16")
    measured = Measured("a card", 61, (A02, HIDDEN, elsewhere, missed), (Clean("a-case", 9, ()),))
    text = lane_page.section(TE, measured, load(DATA))
    assert "python -m validation faults --implementation te --precision bf16 --share-gpu 8 --write\n" in text
    assert "run on a card, in 61 s" in text
    assert "| attention | 4 | 2 | 1 | 1 | 0 |" in text
    assert "| A13 | yarn's beta_slow is not forwarded | 1.1e-02 | 1.4e-02 | 1.2e-02 | 8.0e-03 |" in text
    assert "- A14, first seen at B Check and not at A Check: " in text
    assert "- A16, missed: the softmax is scaled by mscale squared times 1.56. Not explained." in text
    assert "Of 1 case without a fault (9 checks) the checks fail 0.\n" in text
    assert "- B01: Transformer Engine has an attention of its own" in text
    others = (replace(A02, fault="A01"), replace(A02, fault="D13"))
    cells = [lane_page.cell(one, TE, measured) for one in (A02, HIDDEN, elsewhere, *others)]
    assert cells == ["caught 2", "missed 0.9", "caught 2, at B Check", "not run", "no case"]


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(saved(Measured("a machine", 1.5, (HIDDEN,), (Clean("a-case", 9, ("FAIL: x",)),))), encoding="utf-8")
    assert load(kept) == Measured("a machine", 1.5, (HIDDEN,), (Clean("a-case", 9, ("FAIL: x",)),))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--precision", "fp8"], "error: precision 'fp8' is unknown; known are fp64, fp32, bf16 and fp16\n"),
        (["--share-gpu", "0"], "error: --share-gpu 0: give 1 or more\n"),
        (
            ["--only", "D13", "--precision", "bf16"],
            "error: no case here can have these faults: D13: the weights of a bf16 model are bf16",
        ),
        (["--write", "--precision", "bf16"], "error: --write writes what runs as the files say, or with --implementation te"),
        (["--behind", "all", "--precision", "bf16"], "error: --behind and --diagnose run faults as their files say"),
        (["--diagnose", "--record", "x"], "error: --record keeps what comes of each fault; diagnoses are kept as testsuites"),
        (["--record", ""], "error: --record is empty: give it a value, or leave it out\n"),
    ],
)
def test_wrong_usage_is_one_sentence(words: list[str], says: str, tmp_path: Path) -> None:
    done = warm(["faults", *words, "--results", str(tmp_path)], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1


def test_a_recorded_fault_is_told_and_not_run_again(tmp_path: Path) -> None:
    """In bf16 on the CPU, beside a fault that is already there."""
    words = ["faults", "--only", "A13", "--precision", "bf16", "--record", str(tmp_path / "kept.json")]
    first = warm([*words, "--results", str(tmp_path / "one")], tmp_path / "cache")
    assert (first.returncode, first.stderr) == (0, ""), first.stdout
    assert "KNOWN: Fault seen: A13 in single - yarn's beta_slow is not forwarded: missed, since it is 1.1e-02" in first.stdout
    again = warm([*words, "--results", str(tmp_path / "two")], tmp_path / "cache")
    assert (again.returncode, again.stderr) == (0, "")
    assert "===== scorecard: 0 faults in 0 cases of preset tiny =====" in again.stdout
    assert "(1 fault, 0 caught, 0 localised, 0 false alarms in 1 case, " in again.stdout

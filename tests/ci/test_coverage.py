"""What became of a recipe's settings: told whole, without contradiction, and enough of it, or the gate is red."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.cli import main
from ci.coverage import by_recipe, not_compared, too_little, wrong
from ci.coverage import share as read_share
from ci.expected import Expected, Manifest, UnreadableManifest, load, save
from ci.junit import Check, Suite
from ci.page.run import judged as judged_alone
from tests.ci.green import CHECKS, EXPECTED, FILE, MANIFEST, MISSING, SUITE, verdict
from validation.case.covered import HIDDEN, NONE, Word, counts, joined, properties, read, share

FUSION, LOSS, CLIP = "model.bias_dropout_fusion=true", "model.moe_z_loss_coeff=0.001", "optimizer.clip_grad=1.0"
WORDS = {FUSION: Word("equal"), LOSS: Word("equal"), CLIP: Word("needs", "a GPU")}
GIVEN = f"{FUSION} {LOSS}"
TOLD = properties("flags.txt", WORDS)
ASKED = replace(
    EXPECTED,
    properties={**EXPECTED.properties, "recipe": "flags.txt", "settings": GIVEN},
    covers={FUSION: True, LOSS: True, CLIP: False},
)
PASSING = [check for check in CHECKS if check.status == "pass"]


def suite(*checks: Check, said: Mapping[str, str] = TOLD) -> Suite:
    return replace(SUITE, checks=checks or SUITE.checks, properties={**SUITE.properties, "settings": GIVEN, **said})


def reasons(folder: Path, said: Mapping[str, str] = TOLD, share: float | None = None, asked: Expected = ASKED) -> list[str]:
    """The gate's sentences about a testsuite with these properties."""
    junit.write(folder / FILE, suite(said=said))
    return [why for _, why in verdict(folder, replace(MANIFEST, suites=(asked,)), share=share).reasons]


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in TOLD.items() if key != name}


def test_a_recipe_that_is_told_whole_is_green(tmp_path: Path) -> None:
    assert reasons(tmp_path) == []
    assert reasons(tmp_path, share=2 / 3) == []


OF = "coverage of the recipe: "


@pytest.mark.parametrize(
    ("said", "why"),
    [
        pytest.param({}, "does not say its recipe, and flags.txt is required", id="nothing"),
        pytest.param(without("coverage"), f"{OF}the counts are 'missing', and ", id="no counts"),
        pytest.param(
            TOLD | {"coverage": "3 equal"}, f"{OF}the counts are '3 equal', and the settings make ", id="forged counts"
        ),
        pytest.param(TOLD | {"coverage": "5 equal, 1 need what is not here"}, f"{OF}the counts are ", id="counts above all"),
        pytest.param(TOLD | {f"coverage.{CLIP}": "fine"}, f"{OF}setting {CLIP}: 'fine' is none of ", id="unknown word"),
        pytest.param(TOLD | {f"coverage.{CLIP}": ""}, f"{OF}setting {CLIP}: '' is none of ", id="no word"),
        pytest.param(
            properties("flags.txt", {**WORDS, "optimizer.clip_grad=2.0": Word("equal")}),
            f"{OF}setting optimizer.clip_grad is there twice",
            id="a setting twice",
        ),
        pytest.param(without(f"coverage.{CLIP}"), f"{OF}the counts are ", id="a setting fewer than counted"),
        pytest.param(
            properties("flags.txt", {FUSION: Word("equal"), LOSS: Word("equal")}),
            f"does not say what became of {CLIP}",
            id="fewer",
        ),
        pytest.param(
            properties("flags.txt", {**WORDS, "model.x=1": Word("equal")}),
            "tells of settings that the recipe does not have: model.x=1",
            id="more",
        ),
        pytest.param(
            properties("flags.txt", {**WORDS, CLIP: Word("equal")}),
            f"says equal of settings that the case does not set: {CLIP}",
            id="equal, and not set",
        ),
        pytest.param(
            TOLD | {"recipe": "other.txt"}, "made with recipe other.txt, and flags.txt is required", id="another file"
        ),
    ],
)
def test_what_cannot_be_believed_is_red(tmp_path: Path, said: Mapping[str, str], why: str) -> None:
    found = reasons(tmp_path, said)
    assert any(reason.startswith(why) for reason in found), found


def test_a_word_twice_is_no_file_of_ours(tmp_path: Path) -> None:
    junit.write(tmp_path / FILE, suite())
    text = (tmp_path / FILE).read_text()
    line = next(line for line in text.splitlines() if f"coverage.{FUSION}" in line)
    (tmp_path / FILE).write_text(text.replace(line, f"{line}\n{line}"))
    (reason,) = [why for _, why in verdict(tmp_path, replace(MANIFEST, suites=(ASKED,))).reasons]
    assert reason == f"property coverage.{FUSION} is there twice"


def _spoilt(folder: Path, word: str, *checks: Check) -> list[str]:
    junit.write(folder / FILE, suite(*checks, said=properties("flags.txt", WORDS | {FUSION: Word(word)})))
    return [why for _, why in verdict(folder, replace(MANIFEST, suites=(ASKED,))).reasons]


@pytest.mark.parametrize("status", ["fail", "error", "unevaluated"])
def test_equal_needs_that_every_check_passes(tmp_path: Path, status: str) -> None:
    checks = (*CHECKS[:-1], replace(CHECKS[-1], status=status, message="", properties={}))
    assert f"says equal of {FUSION}, {LOSS}, though not every check passes" in _spoilt(tmp_path, "equal", *checks)


def test_different_needs_a_check_that_does_not_pass(tmp_path: Path) -> None:
    """A known bug that shows is one."""
    why = f"says different of {FUSION}, though every check passes"
    passing = [replace(check, status="pass", message="") for check in CHECKS]
    assert why in _spoilt(tmp_path, "different", *passing)
    assert why not in _spoilt(tmp_path, "different", *CHECKS)


NEAREST = "tiny-tp2+other-fp64-local-gloo.xml"
REFUSED = {**WORDS, LOSS: Word("cannot be compared", "Megatron-Core refuses it: why; compared without it")}


@pytest.mark.parametrize(
    ("words", "others", "told"),
    [
        (REFUSED, {}, True),
        (WORDS, {}, False),
        ({**WORDS, CLIP: Word("cannot be compared", "no formula")}, {}, False),
        (REFUSED, {"precision": "bf16"}, False),
        (REFUSED, {"recipe": "other.txt"}, False),
    ],
)
@pytest.mark.parametrize("session", ["", "one"])
def test_settings_that_are_refused_together_are_named_and_not_missing(
    tmp_path: Path, words: Mapping[str, Word], others: Mapping[str, str], told: bool, session: str
) -> None:
    """megatron-core refuses them in a run, and a manifest is made without it. What was compared instead has another name."""
    place = tmp_path / f"results-{session}" if session else tmp_path
    place.mkdir(exist_ok=True)
    found = suite(said={**properties("flags.txt", words), **others})
    junit.write(place / NEAREST, replace(found, name="tiny-tp2+other-fp64-local-gloo"))
    wanted = replace(ASKED, session=session)
    reasons = dict(verdict(tmp_path, replace(MANIFEST, suites=(wanted,))).reasons)
    why = reasons.pop(str((place / FILE).relative_to(tmp_path)))
    assert why == (
        f"not compared as the recipe says, with {LOSS} (Megatron-Core refuses it: why; compared without it); {NEAREST} is the "
        "nearest case that runs: write the recipe so, and make the manifest again"
        if told
        else MISSING
    )
    assert [*reasons.values()] == (["a result that the manifest does not name"] if session and not told else [])


def test_a_recipe_that_nobody_asked_for_is_red(tmp_path: Path) -> None:
    plain = "tells of a recipe, and the manifest asks for none: make it with the same --recipe"
    assert plain in reasons(tmp_path, asked=EXPECTED)


@pytest.mark.parametrize(("needed", "red"), [(0.0, False), (0.66, False), (2 / 3, False), (0.67, True), (1.0, True)])
def test_a_share_is_demanded(tmp_path: Path, needed: float, red: bool) -> None:
    """By the option, which counts before the manifest's."""
    found = reasons(tmp_path, share=needed)
    said = f"recipe flags.txt: 2 of 3 settings are equal (0.67), and {needed:g} is required; not equal: {CLIP} (needs)"
    assert found == ([said] if red else [])


def test_the_manifest_demands_a_share_of_a_session(tmp_path: Path) -> None:
    junit.write(tmp_path / FILE, suite())
    manifest = replace(MANIFEST, suites=(ASKED,), coverage={"": 0.9})
    ((where, why),) = verdict(tmp_path, manifest).reasons
    assert (where, why.partition(";")[0]) == (
        "the run",
        "recipe flags.txt: 2 of 3 settings are equal (0.67), and 0.9 is required",
    )
    assert verdict(tmp_path, manifest, share=0.5).green


def test_a_share_of_nothing_is_none(tmp_path: Path) -> None:
    """Whoever asks for one, and no testsuite is of a recipe."""
    junit.write(tmp_path / FILE, SUITE)
    (reason,) = verdict(tmp_path, share=0.5).reasons
    assert reason == ("coverage", "0.5 of a recipe's settings must be equal, and no testsuite is of a recipe")
    why = "a share of its recipe's settings must be equal, and no testsuite of it is of a recipe"
    assert verdict(tmp_path, replace(MANIFEST, coverage={"": 0.5})).reasons == (("the run", why),)
    assert list(too_little([(EXPECTED, SUITE)], {"one": 0.5}, None)) == [("one", why)]


def test_cases_of_a_recipe_count_together() -> None:
    """What fp64 hides is equal in bf16; what differs anywhere is different."""
    fp64 = {FUSION: Word("not exercised here", "fp64 hides it"), LOSS: Word("equal"), CLIP: Word("equal")}
    bf16 = {FUSION: Word("equal"), LOSS: Word("different"), CLIP: Word("not exercised here", "no steps")}
    together = {FUSION: Word("equal"), LOSS: Word("different"), CLIP: Word("equal")}
    assert joined([fp64, bf16]) == joined([bf16, fp64]) == together
    hidden, unread = ({FUSION: Word("not exercised here", why)} for why in (HIDDEN, "the same lines"))
    assert joined([hidden, unread]) == joined([unread, hidden]) == unread
    named = replace(suite(), properties={**suite().properties, "session": "one"})
    assert by_recipe([named, suite()]) == {("one", "flags.txt"): WORDS, ("", "flags.txt"): WORDS}
    assert not list(not_compared([named]))
    others = {f"--flag-{number} 8": Word("cannot be compared", "it is not read") for number in range(5)}
    (said,) = not_compared([suite(said=properties("flags.txt", WORDS | others))])
    assert said == ("flags.txt", "compared without --flag-0 8, --flag-1 8, --flag-2 8 and 2 more")
    both = [suite(said=properties("flags.txt", words)) for words in (fp64, bf16)]
    assert by_recipe(both) == {("", "flags.txt"): together}


@pytest.mark.parametrize(
    "words", [{}, WORDS, {FUSION: Word("cannot be compared", "no formula: none"), LOSS: Word("different")}]
)
def test_what_is_written_reads_back(words: Mapping[str, Word]) -> None:
    assert read(properties("a.txt", words)) == words


def test_counts_and_share() -> None:
    assert counts([]) == NONE
    assert counts(["needs", "equal", "equal"]) == "2 equal, 1 need what is not here"
    assert (share({}), share(WORDS)) == (1.0, 2 / 3)


@pytest.mark.parametrize(("count", "more"), [(5, ""), (6, " and 1 more"), (7, " and 2 more")])
def test_five_settings_are_named(count: int, more: str) -> None:
    """Of a session by its name."""
    words = {f"model.f{number}=1": Word("needs", "a GPU") for number in range(count)}
    asked = replace(ASKED, session="one", covers=dict.fromkeys(words, False))
    (reason,) = too_little([(asked, suite(said=properties("flags.txt", words)))], {"one": 0.5}, None)
    shown = ", ".join(f"model.f{number}=1 (needs)" for number in range(5))
    said = f"recipe flags.txt: 0 of {count} settings are equal (0.00), and 0.5 is required; not equal: {shown}{more}"
    assert reason == ("one", said)


def test_a_setting_that_nobody_knows_is_only_that(tmp_path: Path) -> None:
    """It is not also one that the case does not set."""
    found = reasons(tmp_path, properties("flags.txt", {**WORDS, "model.x=1": Word("equal")}))
    assert found == ["tells of settings that the recipe does not have: model.x=1"]


def test_a_share_is_a_number_from_0_to_1() -> None:
    assert [read_share(text) for text in ("0", "0.25", "1")] == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match=r"^1\.01 is not from 0 to 1$"):
        read_share("1.01")


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "all", "", "60%"])
def test_a_share_that_cannot_be_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--manifest", "m", "--results", "r", "--coverage", value]) == 2
    assert "--coverage" in capsys.readouterr().err


@pytest.mark.parametrize(("needed", "code"), [("0.6", 0), ("0.9", 1)])
def test_the_command_demands_the_share_that_it_is_given(tmp_path: Path, needed: str, code: int) -> None:
    junit.write(tmp_path / "results" / FILE, suite())
    save(tmp_path / "m.json", replace(MANIFEST, suites=(ASKED,)))
    words = ["--manifest", str(tmp_path / "m.json"), "--results", str(tmp_path / "results"), "--coverage", needed]
    assert main(["gate", *words]) == code


@pytest.mark.parametrize("value", [1.5, -1, True, "0.5", None])
def test_a_manifest_with_such_a_share_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "m.json"
    for given in (0.0, 0.5, 1.0):
        save(path, Manifest((ASKED,), coverage={"": given}))
        assert load(path).coverage == {"": given}
    save(path, Manifest((ASKED,), coverage={"": value}))  # type: ignore[dict-item]
    with pytest.raises(UnreadableManifest, match="is no share from 0 to 1"):
        load(path)


def test_a_page_of_results_alone_is_no_pass_if_they_contradict_themselves() -> None:
    forged = suite(*PASSING, said=TOLD | {"coverage": "3 equal"})
    assert judged_alone([suite(*PASSING)]).verdict == "pass"
    assert judged_alone([forged]).verdict == "error"
    assert wrong(forged) in judged_alone([forged]).reasons[0]
    assert by_recipe([forged]) == {}

"""The gate is green for what the manifest demands and for nothing else: each reason is a sentence of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.expected import Expected, Manifest
from ci.junit import Check
from ci.reasons import Origin
from tests.ci.green import (
    BUG,
    CHECKS,
    COMMIT,
    EXPECTED,
    FILE,
    MANIFEST,
    MISSING,
    NUMBERS,
    OF_BUG,
    OTHER,
    SUITE,
    Change,
    limited,
    of_changed,
    verdict,
    with_check,
    with_checks,
    with_properties,
)

UNEXPECTED = (
    "FAIL: Layer 0 Gradient - passes, though it shows the known upstream bug a: if upstream is mended, remove the entry"
)
EXCUSED = "1 check is skipped: Layer 0 Gradient (gradients) for a bug that validation/run/known.yaml does not list for it"
NO_CHECKS = replace(EXPECTED, checks=())
EXTRA = Check("mla", "Layer 9 Key", "pass", properties=NUMBERS)
ON_ONE_RANK = {"ranks": "0", "worst_rank": "0"}
CHANGES: dict[str, tuple[Change, list[str]]] = {
    "another suite": (
        lambda suite: replace(suite, name="tiny-pp2"),
        ["is of the testsuite tiny-pp2, not of tiny-tp2-fp64-local-gloo"],
    ),
    "transport": (with_properties(transport="nccl"), ["made with transport nccl, and gloo is required"]),
    "precision": (with_properties(precision="bf16"), ["made with precision bf16, and fp64 is required"]),
    "implementation": (with_properties(implementation="te"), ["made with implementation te, and local is required"]),
    "preset": (with_properties(preset="mini"), ["made with preset mini, and tiny is required"]),
    "layout": (with_properties(layout="pp2"), ["made with layout pp2, and tp2 is required"]),
    "ranks by word": (with_properties(ranks="1"), ["made with ranks 1, and 2 is required"]),
    "numbers of the model": (with_properties(case="0"), ["made with case 0, and 0123456789abcdef is required"]),
    "nothing said": (with_properties(transport=None), ["does not say its transport, and gloo is required"]),
    "commit": (
        with_properties(commit=OTHER),
        [f"made on commit {OTHER}, and {COMMIT} is required: every job must check out the same"],
    ),
    "no commit": (
        with_properties(commit=None),
        [f"made on commit unknown, and {COMMIT} is required: every job must check out the same"],
    ),
    "changed files": (with_properties(dirty="true"), ["made with files that are not those of its commit"]),
    "perhaps changed files": (with_properties(dirty="unknown"), ["does not say that its files are those of its commit"]),
    "plugin": (with_properties(plugin="my.plugin"), ["made with the plugin my.plugin, which changes what is compared"]),
    "megatron checkout": (
        with_properties(megatron_path="Megatron-LM", megatron_commit=OTHER),
        [f"made with the Megatron {OTHER}, and the installed one is required"],
    ),
    "megatron folder": (
        with_properties(megatron_path="Megatron-LM"),
        ["made with the Megatron Megatron-LM, and the installed one is required"],
    ),
    "old library": (with_properties(torch="2.12.9"), ["made with torch 2.12.9, and >=2.13.0 is required"]),
    "absent library": (
        with_properties(megatron_core="absent"),
        ["made with megatron-core absent, and ==0.16.1 is required", EXCUSED],
    ),
    "another megatron-core than is pinned": (
        with_properties(megatron_core="0.17.0"),
        ["made with megatron-core 0.17.0, and ==0.16.1 is required", EXCUSED],
    ),
    "no library": (with_properties(torch=None), ["made with torch absent, and >=2.13.0 is required"]),
    "not finished": (
        with_checks(Check("run", "run", "error", message="did not finish")),
        ["did not finish: the run was killed, or is still going"],
    ),
    "rank without a place": (with_properties(rank_1_place=None), ["2 ranks are declared, and nothing is there of rank 1"]),
    "rank without a tensor": (
        with_checks(*(replace(check, properties={**check.properties, **ON_ONE_RANK}) for check in CHECKS)),
        ["2 ranks are declared, and nothing is there of rank 1"],
    ),
    "missing check": (with_checks(*CHECKS[:2], CHECKS[3]), ["1 check is missing: Layer 0 Key (mla)"]),
    "extra check": (with_checks(*CHECKS, EXTRA), ["1 check is there that nobody expects: Layer 9 Key (mla)"]),
    "another module's check": (
        with_check(2, component="moe"),
        ["1 check is missing: Layer 0 Key (mla)", "1 check is there that nobody expects: Layer 0 Key (moe)"],
    ),
    "check twice": (with_checks(*CHECKS, CHECKS[1]), ["1 check is there more than once: Layer 0 Query (mla)"]),
    "failure": (
        with_check(1, status="fail", message="FAIL: a", properties={**NUMBERS, "rel_error": "0.25"}),
        ["1 check fails: Layer 0 Query (mla); the first in the flow of data: FAIL: a"],
    ),
    "the first of many failures": (
        lambda suite: with_check(2, status="fail", message="FAIL: b")(
            with_check(1, status="fail", message="FAIL: a - off\nand more")(suite)
        ),
        ["2 checks fail: Layer 0 Query (mla), Layer 0 Key (mla); the first in the flow of data: FAIL: a - off"],
    ),
    "error": (
        with_check(1, status="error", message="ERROR: Layer 0 Query - no rank holds [0:1]\nmore"),
        ["1 check could not be decided: Layer 0 Query (mla) (ERROR: Layer 0 Query - no rank holds [0:1])"],
    ),
    "unexpected pass": (
        with_check(3, status="fail", message=UNEXPECTED),
        [
            "1 check of a known upstream bug passes: Layer 0 Gradient (gradients); "
            "if upstream is mended, remove the entry from validation/run/known.yaml"
        ],
    ),
    "skipped for no reason": (
        with_check(1, status="known", message="KNOWN: Layer 0 Query - known upstream bug: it is Tuesday"),
        ["1 check is skipped: Layer 0 Query (mla) for a bug that validation/run/known.yaml does not list for it"],
    ),
    "skipped with a word": (
        with_check(1, status="known", message="flaky"),
        ["1 check is skipped: Layer 0 Query (mla) for a bug that validation/run/known.yaml does not list for it"],
    ),
    "skipped for a bug that does not show there": (
        with_check(1, status="known", message=f"KNOWN: Layer 0 Query - {BUG}"),
        ["1 check is skipped: Layer 0 Query (mla) for a bug that validation/run/known.yaml does not list for it"],
    ),
    "above its limit": (
        with_check(1, properties={**NUMBERS, "rel_error": "1e-9"}),
        ["1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"],
    ),
    "no number": (
        with_check(1, properties={**NUMBERS, "rel_error": "nan"}),
        ["1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"],
    ),
    "no number where near-ties may pass": (
        with_check(1, properties={**NUMBERS, "rel_error": "nan", "tolerance": "0.0"}),
        ["1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"],
    ),
    "no limit": (
        with_check(1, properties={"rel_error": "1e-15", "ranks": "0,1"}),
        ["1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"],
    ),
    "no number at all": (
        with_check(1, properties={"ranks": "0,1"}),
        ["1 check passes: Layer 0 Query (mla) without a number"],
    ),
    "a limit that is not ours": (
        with_check(1, properties={**NUMBERS, "tolerance": "1e9"}),
        ["1 check passes: Layer 0 Query (mla) under a limit above 1e-10"],
    ),
    "an error where none may be": (
        with_check(1, properties={**NUMBERS, "rel_error": "0.17", "tolerance": "0.0"}),
        ["1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"],
    ),
    "a word for a number": (
        with_check(1, properties={**NUMBERS, "rel_error": "1_0e-20"}),
        ["1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"],
    ),
}


@pytest.fixture
def green(tmp_path: Path) -> Path:
    """A folder of results that are as they must be."""
    junit.write(tmp_path / FILE, SUITE)
    return tmp_path


def test_results_that_are_as_the_manifest_demands_are_green(green: Path) -> None:
    found = verdict(green)
    assert (found.reasons, found.green) == ((), True)
    assert found.counted == "1 testsuite, 4 checks: 3 pass, 1 with a known upstream bug"


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_whatever_is_not_as_demanded_is_red_with_its_own_sentence(tmp_path: Path, change: Change, said: list[str]) -> None:
    assert of_changed(tmp_path, change) == said


def test_a_newer_torch_is_no_reason(tmp_path: Path) -> None:
    """What an image brings; the two that are compared are those that are pinned."""
    assert of_changed(tmp_path, with_properties(torch="2.14.0.dev1")) == []


def test_a_checkout_of_megatron_may_be_of_any_version(tmp_path: Path) -> None:
    """Its commit is what is asked for. A bug that is mended in it excuses nothing."""
    change = with_properties(megatron_core="0.17.0rc0", megatron_path="Megatron-LM", megatron_commit=OTHER)
    junit.write(tmp_path / FILE, change(SUITE))
    assert [why for _, why in verdict(tmp_path, origin=Origin(COMMIT, OTHER)).reasons] == [EXCUSED]


@pytest.mark.parametrize(
    ("named", "numbers", "said"),
    [
        pytest.param({"near_ties"}, ("0.17", "0.0"), "", id="a router's choice"),
        pytest.param({"near_ties", "exact"}, ("0.17", "0.0"), "", id="a router's choice, which must be equal otherwise"),
        pytest.param({"near_ties", "exact"}, ("inf", "0.0"), "above the limit or no numbers", id="a choice that is no number"),
        pytest.param({"exact"}, ("0.9", "0.0"), "above the limit or no numbers", id="a weight"),
        pytest.param({"exact"}, ("0.17", "0.4"), "under a limit above 0", id="a weight under a limit"),
        pytest.param(set(), ("0.9", "0.0"), "above the limit or no numbers", id="any other check"),
        pytest.param(set(), ("0.9", "0.99"), "under a limit above 0.5", id="a limit that decides nothing"),
        pytest.param(set(), ("0.17", "0.4"), "", id="within its limit"),
    ],
)
def test_below_fp64_a_choice_alone_may_pass_above_a_limit_of_zero(
    named: set[str], numbers: tuple[str, str], said: str, tmp_path: Path
) -> None:
    """Only what the manifest names as a router's choice may be a near-tie; a weight is equal, or it fails."""
    names = frozenset({("mla", "Layer 0 Query")} if "near_ties" in named else ())
    expected = replace(limited(0.0 if "exact" in named else 0.5, 1), near_ties=names)
    error, limit = numbers
    junit.write(tmp_path / FILE, with_check(1, properties={**NUMBERS, "rel_error": error, "tolerance": limit})(SUITE))
    reasons = [why for _, why in verdict(tmp_path, Manifest((expected,), COMMIT, "false")).reasons]
    assert len(reasons) == bool(said)
    assert all(said in why for why in reasons)


def test_results_of_a_narrowed_run_are_refused(tmp_path: Path) -> None:
    """Even if every check that the manifest names is there."""
    assert of_changed(tmp_path, with_properties(left_out="582")) == [
        "made without 582 of its checks, which a run leaves out if something selects checks (-k, -x)"
    ]


@pytest.mark.parametrize("there", [(), (replace(EXPECTED, file="self-test.xml", name="self-test", checks=()),)])
def test_a_manifest_that_lacks_the_self_test_it_asks_for_is_red(there: tuple[Expected, ...], tmp_path: Path) -> None:
    """A session that tests itself has a testsuite for that, with checks in it."""
    junit.write(tmp_path / FILE, SUITE)
    manifest = replace(MANIFEST, suites=(EXPECTED, *there), self_tests={"": "self-test.xml"})
    said = ("manifest", "says that the run tests itself, and names no check of self-test.xml")
    assert said in verdict(tmp_path, manifest).reasons


@pytest.mark.parametrize("limit", [0.5, 1e-10])
def test_weights_that_differ_are_no_near_tie(tmp_path: Path, limit: float) -> None:
    """Weights are equal to the bit in every precision: a pass of theirs with a relative error of 0.9 is not believed."""
    weights = replace(CHECKS[1], component="weights", name="Layer 0 Query Weight")
    off = replace(weights, properties={**NUMBERS, "rel_error": "0.9", "tolerance": "0.0"})
    checks = tuple((check.component, check.name) for check in (*CHECKS, off))
    junit.write(tmp_path / FILE, replace(SUITE, checks=(*CHECKS, off)))
    expected = replace(limited(limit), checks=checks, properties={**EXPECTED.properties, "precision": "bf16"})
    junit.write(tmp_path / FILE, with_properties(precision="bf16")(replace(SUITE, checks=(*CHECKS, off))))
    assert [why for _, why in verdict(tmp_path, Manifest((expected,), COMMIT, "false")).reasons] == [
        "1 check passes: Layer 0 Query Weight (weights), though the numbers are above the limit or no numbers"
    ]


def test_a_pass_above_a_limit_of_its_own_is_red_in_every_precision(tmp_path: Path) -> None:
    """No limit is known before in the lower ones, and no router's choice is excused above a limit that is not 0."""
    for limit in (0.5, 1e-10):
        junit.write(tmp_path / FILE, with_check(1, properties={**NUMBERS, "rel_error": "2e-10"})(SUITE))
        assert [why for _, why in verdict(tmp_path, Manifest((limited(limit),), COMMIT, "false")).reasons] == [
            "1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"
        ]


SEEN = {**NUMBERS, "layout": "tp2", "rel_error": "0.25", "first": "Layer 0 Query"}
WITHOUT = dict.fromkeys(("rel_error", "tolerance", "max_diff"))
UNSHOWN = "1 planted defect counts as seen: Planted defect seen: rope (self_test), and no number there is above its limit"


def untrue(why: str) -> str:
    """The sentence about a planted defect."""
    return f"1 check has numbers that cannot be true: Planted defect seen: rope (self_test) ({why})"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"rel_error": "nan", "max_diff": "nan", "avg_diff": "nan"}, None),
        ({"rel_error": "5e-11", "projection": "1.00000000005", "tolerance": "1e-10", "max_tolerance": "1e-15"}, None),
        ({"rel_error": "5e-11", "max_tolerance": "1e-3"}, UNSHOWN),
        (dict.fromkeys((*NUMBERS, "rel_error"), "0"), UNSHOWN),
        ({"rel_error": "0.0", "max_diff": "0.0", "avg_diff": "0.0"}, UNSHOWN),
        (WITHOUT, None),
        ({**WITHOUT, "first": "Layer 0 Key"}, UNSHOWN),
        ({**WITHOUT, "first": "Layer 0 Query (rank 0: no tensor"}, UNSHOWN),
        ({"rel_error": None}, UNSHOWN),
        ({"rel_error": "x"}, UNSHOWN),
        ({"rel_error": "x", "max_diff": "nan"}, UNSHOWN),
        ({"rel_error": "nan"}, UNSHOWN),
        ({"rel_error": "-1"}, UNSHOWN),
        ({"tolerance": None}, UNSHOWN),
        ({"tolerance": "-1"}, UNSHOWN),
        ({"tolerance": "1.5", "rel_error": "2.0"}, UNSHOWN),
        ({"tolerance": "1.5", "rel_error": "2.0", "decided_by": "formula"}, None),
        ({"tolerance": "3.5", "rel_error": "4.0", "decided_by": "formula"}, UNSHOWN),
        ({"elements": "0"}, untrue("max_diff 3e-15 is more than 0 elements with avg_diff 1e-15 can have")),
        ({"max_diff": "0.0", "avg_diff": "0.0"}, untrue("max_diff 0 and rel_error 0.25")),
        ({"layout": "single"}, untrue("ranks 0,1 of 1")),
        ({"layout": "tp0x"}, untrue("ranks 0,1 of 0")),
    ],
)
def test_a_planted_defect_is_seen_by_numbers_above_the_limit(
    changed: dict[str, str | None], said: str | None, tmp_path: Path
) -> None:
    """The self-test has no ranks of its own, and passes where a defect shows. One that tested nothing has none."""
    numbers = {name: value for name, value in {**SEEN, **changed}.items() if value is not None}
    details = "PASS: Planted defect seen: rope - first failing check Layer 0 Query (rank 0: no tensor)"
    seen = Check("self_test", "Planted defect seen: rope", "pass", properties=numbers, details=details)
    junit.write(tmp_path / FILE, with_checks(seen)(SUITE))
    expected = replace(EXPECTED, ranks=0, checks=((seen.component, seen.name),), tensors={}, excuses=())
    found = [
        why.partition(": run the session again")[0]
        for _, why in verdict(tmp_path, Manifest((expected,), COMMIT, "false")).reasons
    ]
    assert found == ([said] if said else [])


def test_a_suite_in_which_every_check_is_skipped_is_red(tmp_path: Path) -> None:
    """A listed bug is no excuse for comparing nothing."""
    known = tuple(replace(check, status="known", message=f"KNOWN: {BUG}", properties=NUMBERS) for check in CHECKS)
    assert "every check is skipped as a known upstream bug: nothing was compared" in of_changed(tmp_path, with_checks(*known))


def test_many_names_are_three_and_a_number(tmp_path: Path) -> None:
    extra = [replace(EXTRA, name=f"Layer {number} Key") for number in range(5, 10)]
    (said,) = of_changed(tmp_path, with_checks(*CHECKS, *extra))
    assert said.endswith("Layer 5 Key (mla), Layer 6 Key (mla), Layer 7 Key (mla) and 2 more")


def test_a_suite_without_a_check_is_red(tmp_path: Path) -> None:
    junit.write(tmp_path / FILE, with_checks()(SUITE))
    assert [why for _, why in verdict(tmp_path).reasons] == [
        "2 ranks are declared, and nothing is there of rank 0, 1",
        "holds no check at all",
    ]


def test_a_file_that_is_not_there_is_red(tmp_path: Path) -> None:
    assert verdict(tmp_path).reasons == ((FILE, MISSING),)


def test_a_folder_that_is_not_there_is_red(tmp_path: Path) -> None:
    assert verdict(tmp_path / "none").reasons == ((FILE, MISSING),)


def test_a_file_of_the_same_run_that_nobody_asked_for_is_red(green: Path) -> None:
    junit.write(green / "more.xml", SUITE)
    assert verdict(green).reasons == (("more.xml", "a result that the manifest does not name"),)


def test_sessions_have_folders_of_their_own(tmp_path: Path) -> None:
    """Two sessions may have a testsuite of the same name: the self-test is one."""
    manifest = replace(MANIFEST, suites=(replace(EXPECTED, session="a"), replace(EXPECTED, session="b")))
    junit.write(tmp_path / "results-a" / FILE, SUITE)
    assert verdict(tmp_path, manifest).reasons == ((f"results-b/{FILE}", MISSING),)
    junit.write(tmp_path / "results-b" / FILE, SUITE)
    assert verdict(tmp_path, manifest).green


@pytest.mark.parametrize("stray", ["x.xml", f"more/../{FILE}x.xml", ".xml.xml"])
def test_a_stray_file_in_a_session_s_own_folder_is_red(tmp_path: Path, stray: str) -> None:
    """Whatever is in it, and whichever run it is of."""
    junit.write(tmp_path / "results-a" / FILE, SUITE)
    path = (tmp_path / "results-a" / stray).resolve()
    for content in (SUITE, with_properties(run="another")(SUITE), None):
        junit.write(path, content) if content else path.write_text("no JUnit")
        found = verdict(tmp_path, replace(MANIFEST, suites=(replace(EXPECTED, session="a"),)))
        assert [why for _, why in found.reasons] == ["a result that the manifest does not name"]


@pytest.mark.parametrize(
    ("change", "origin", "said"),
    [
        pytest.param({"suites": ()}, Origin(COMMIT), ["names no check: nothing would be compared"], id="empty"),
        pytest.param(
            {"suites": (NO_CHECKS,)},
            Origin(COMMIT),
            ["names no check: nothing would be compared"],
            id="no checks",
        ),
        pytest.param({"suites": (EXPECTED, EXPECTED)}, Origin(COMMIT), [f"names {FILE} of session '' twice"], id="twice"),
        pytest.param({"commit": OTHER}, Origin(COMMIT), [f"made on commit {OTHER}, and {COMMIT} is required"], id="commit"),
        pytest.param({"commit": ""}, Origin(COMMIT), [f"made on commit unknown, and {COMMIT} is required"], id="no commit"),
        pytest.param({"dirty": "true"}, Origin(COMMIT), ["made with files that are not those of its commit"], id="changed"),
        pytest.param({"dirty": "unknown"}, Origin(COMMIT), ["made with files that are not those of its commit"], id="no git"),
        pytest.param({"dirty": ""}, Origin(COMMIT), ["made with files that are not those of its commit"], id="nothing said"),
        pytest.param(
            {"commit": ""},
            Origin(""),
            ["does not say which commit it is of; give --commit, or make it where git or the CI service says it"],
            id="nothing to go by",
        ),
    ],
)
def test_a_manifest_that_proves_nothing_is_red(green: Path, change: dict[str, object], origin: Origin, said: list[str]) -> None:
    found = verdict(green, replace(MANIFEST, **change), origin)  # type: ignore[arg-type]
    assert [why for where, why in found.reasons if where == "manifest"] == said


def test_results_of_a_megatron_checkout_are_green_where_it_is_the_one_that_is_wanted(tmp_path: Path) -> None:
    junit.write(tmp_path / FILE, with_properties(megatron_path="Megatron-LM", megatron_commit=OTHER)(SUITE))
    assert verdict(tmp_path, origin=Origin(COMMIT, OTHER)).green
    assert [why for _, why in verdict(tmp_path, origin=Origin(COMMIT, COMMIT)).reasons] == [
        f"made with the Megatron {OTHER}, and {COMMIT} is required"
    ]


def test_the_installed_megatron_is_not_the_checkout_that_is_wanted(green: Path) -> None:
    assert [why for _, why in verdict(green, origin=Origin(COMMIT, OTHER)).reasons] == [
        f"made with the Megatron the installed one, and {OTHER} is required"
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"rel_error_without": None},
        {"rel_error_without": "0.4"},
        {"rel_error_without": "nan"},
        {"rel_error_without": "a little"},
        {"tolerance": None},
        {"tolerance": "0.5"},
        {"rel_error_without": "1.1e-10"},
    ],
    ids=str,
)
def test_a_known_bug_excuses_nothing_that_is_wrong_without_it(tmp_path: Path, changed: dict[str, str | None]) -> None:
    """The number of the run without the bug must be there, and as good as a pass's."""
    said = {name: value for name, value in {**OF_BUG, **changed}.items() if value is not None}
    (why,) = of_changed(tmp_path, with_check(3, properties=said))
    assert why == (
        "1 check is skipped: Layer 0 Gradient (gradients) for a known upstream bug without a number that shows that it "
        "passes once the bug is taken out"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_check(1, properties={**NUMBERS, "rel_error": "-1e9"}), "above the limit or no numbers"),
        (with_check(1, properties={**NUMBERS, "projection": "2.0"}), "above the limit or no numbers"),
        (with_check(3, properties={**OF_BUG, "rel_error": "inf"}), "bug that does not make as large an error"),
        (with_check(3, properties={**OF_BUG, "rel_error": "-0.4"}), "bug that does not make as large an error"),
        (with_check(3, properties={**OF_BUG, "rel_error_without": "-1"}), "without a number that shows"),
        (with_properties(broken="4"), "says that its run broke with exit code 4, and every check passes"),
        (with_properties(pytest_options="-p blind"), "made with -p blind for pytest, which can change what a check says"),
    ],
    ids=["negative", "scaled", "endless", "negative known", "negative without", "broken", "pytest"],
)
def test_what_contradicts_itself_is_red(tmp_path: Path, change: Change, said: str) -> None:
    (why,) = of_changed(tmp_path, change)
    assert said in why


def test_a_known_bug_excuses_nothing_that_must_be_equal_under_a_wider_limit(tmp_path: Path) -> None:
    """As a pass of such a check would be refused."""
    manifest = replace(MANIFEST, suites=(limited(0.0, 3),))
    wide = with_check(3, properties={**OF_BUG, "tolerance": "0.4", "rel_error_without": "0.2"})
    junit.write(tmp_path / FILE, wide(SUITE))
    ((_, why),) = verdict(tmp_path, manifest).reasons
    assert "without a number that shows" in why

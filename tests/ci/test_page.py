"""The page says what the results say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ci.diagnosis import Diagnosis
from ci.diagnosis.diagnosis import UNDECIDED
from ci.expected import Expected, Manifest
from ci.gate import Judgement
from ci.junit import Suite
from ci.page.data import in_the_flow
from ci.page.document import document
from ci.page.run import by_manifest, judged
from ci.reasons import verdicts
from tests.ci.read_pages import Read, page, planted
from tests.ci.runs import BUG, check, suite


@pytest.mark.parametrize(
    ("statuses", "verdict", "glyph"),
    [
        (["pass", "pass"], "Pass", "✓"),
        (["pass", "known"], "Pass", "✓"),
        (["pass", "error"], "Not decided", "?"),
        (["error", "fail"], "Fail", "✗"),
    ],
)
def test_without_a_manifest_the_verdict_is_that_of_the_checks(statuses: list[str], verdict: str, glyph: str) -> None:
    checks = tuple(check(f"Layer {layer} Value", status) for layer, status in enumerate(statuses))
    assert f"{glyph} {verdict} Plumbline: 2 checks in 1 case" in page(suite(checks=checks)).text


def test_a_run_without_a_check_or_with_a_file_that_cannot_be_read_is_no_pass() -> None:
    assert judged([]).verdict == "error"
    assert judged([suite(checks=())]).verdict == "error"
    unread = judged([suite()], ["a.xml: not JUnit XML"])
    assert unread.verdict == "error"
    assert "unreadable: a.xml: not JUnit XML" in Read(document(unread, "Plumbline")).text


def test_with_a_manifest_the_verdict_and_its_reasons_are_the_gates() -> None:
    there = suite(checks=(check("Layer 0 Value"),))
    names = (("mla", "Layer 0 Value"), ("mla", "Layer 1 Value"))
    expected = Expected("a.xml", there.name, 2, {}, (), names)
    lost = Expected("b.xml", "tiny-pp2", 2, {"arrangement": "pp2"}, (), names[:1])
    judgement = Judgement((("a.xml", "1 check is missing"), ("b.xml", "No such file")), ((expected, there),))
    run = by_manifest(Manifest((expected, lost)), judgement)
    assert (run.verdict, run.counts["missing"], run.counts["pass"]) == ("error", 2, 1)
    read = Read(document(run, "Plumbline"))
    assert "a.xml: 1 check is missing" in read.text
    assert "b.xml: No such file" in read.text
    assert "1 of 2 checks is missing" in read.text
    assert read.data["status"] == "mpm"
    assert by_manifest(Manifest((expected,)), Judgement((), ((expected, there),))).verdict == "pass"


def test_the_first_failure_of_a_layout_is_the_first_of_its_file() -> None:
    command = "python -m validation run -k b"
    first, later = check("Layer 0 Attention Output", "error", reproduce=command), check("Layer 0 Value", "fail")
    read = page(suite(checks=(check("Layer 0 Key after RoPE"), first, later)))
    assert "First failure of each layout ? not decided Layer 0 Attention Output in tp2 relative error 6.96e-01" in read.text
    assert command in read.text
    assert "#tiny-tp2-fp64-local-gloo/Layer%200%20Attention%20Output" in read.attributes("href")


def test_what_was_not_evaluated_is_no_failure_and_not_green() -> None:
    """Alone it turns the page red; beside a failure it is counted apart."""
    behind = replace(check("Layer 0 Value"), status="unevaluated", message="not evaluated: the run did not finish")
    alone, both = page(suite(checks=(behind,))), page(suite(checks=(check(status="fail"), behind)))
    assert "? Not decided" in alone.text
    assert "1 check was not evaluated, and nothing else says why" in alone.text
    assert "– 1 not evaluated" in both.text
    assert both.data["status"] == "fu"


def test_layouts_that_fail_at_the_same_check_first_are_one_failure_with_each_ones_own_command() -> None:
    def failing(layout: str, title: str) -> Suite:
        one = check(title, "fail", reproduce=f"python -m validation run --layouts {layout}")
        return suite(layout, (one,))

    layouts = ("tp2", "tp2pp2", "tp2ep2", "tp2cp2", "tp2dp2", "tp4")
    read = page(*(failing(layout, "Layer 0 Value") for layout in layouts), failing("pp2", "Loss"))
    assert "✗ fail Loss in pp2" in read.text
    assert "✗ fail Layer 0 Value in tp2, tp2ep2, tp2cp2, tp2dp2 and 2 more" in read.text
    for layout in (*layouts, "pp2"):
        assert read.text.count(f"python -m validation run --layouts {layout} ") >= 1
    opened = [attributes for tag, attributes in read.elements if tag == "details" and "open" in attributes]
    assert len(opened) == 1, "only the first one takes room before the map"


def test_the_cause_stands_before_the_map_and_what_the_run_was_made_with_at_the_end() -> None:
    suites = suite("tp2", (check("Layer 0 Value", "fail"),)), suite("pp2", (check("Layer 0 Value", "known"),))
    text = document(judged([*suites, planted("rope")]), "Plumbline")
    assert re.findall("<h2[^>]*>(.*?)</h2>", text) == [
        "What went wrong",
        "Layouts",
        "Layers and probes",
        "Checks",
        "Self-test",
        "Known upstream bugs",
        "About this run",
        "Without a script",
    ]
    assert text.index("Layer 0 Value") < text.index(">Layouts<")
    assert "megatron-core" not in text[text.index("<main>") : text.index("About this run")]
    assert "What went wrong" not in page(suite()).text


def test_the_diagnosis_leads_says_how_sure_it_is_and_opens_its_check() -> None:
    failing = check("Layer 0 Attention Output", "fail")
    sure = page(suite("tp2", (failing,)), suite("tp2pp2", (failing,)), suite("single", (check(),)), suite("pp2", (check(),)))
    found = re.search(
        "What went wrong (Every layout with tp fails .*?) No other cause fits these results. Open its first check First",
        sure.text,
    )
    assert found is not None
    assert "first at Layer 0 Attention Output" in found[1]
    assert sure.attributes("href")[1] == "#tiny-tp2-fp64-local-gloo/Layer%200%20Attention%20Output"
    unsure = page(suite("tp2", (failing,)))
    assert re.search("What went wrong .* This is likely, and not certain. .*First failure", unsure.text)


def test_a_command_that_is_none_of_ours_is_not_shown_to_be_copied() -> None:
    read = page(suite(checks=(check("Layer 0 Value", "fail", reproduce="python -m validation run; rm -rf ~"),)))
    assert "rm -rf" not in read.text
    assert "reproduce" not in read.data["more"]["0"]


def test_what_is_not_decided_is_not_called_likely() -> None:
    found = Diagnosis("1 of 9 cases fails: not decided", (UNDECIDED,), False)
    text = Read(document(replace(judged([suite(checks=(check("Loss", "fail"),))]), diagnosis=found), "a")).text
    sure = "This is not certain: these results do not decide it."
    assert f"What went wrong 1 of 9 cases fails: not decided. {sure} First failure" in text
    assert "likely" not in text


def test_a_reason_that_a_failing_check_is_itself_stands_once() -> None:
    failed = suite(checks=(check("Layer 0 Value", "fail"),))
    expected = Expected("a.xml", failed.name, 2, {}, (), (("mla", "Layer 0 Value"),))
    of_check, other = next(verdicts(failed.checks)), "made on commit unknown"
    judgement = Judgement((("a.xml", of_check), ("a.xml", other), ("b.xml", other), ("c.xml", other)), ((expected, failed),))
    run = by_manifest(Manifest((expected,)), judgement)
    assert run.reasons == (f"a.xml and 2 more: {other}",)
    assert run.verdict == "fail"
    assert Read(document(run, "Plumbline")).text.count("relative error 6.96e-01 > 1e-10") == 2, "once, and for no script"


def test_the_self_test_is_told_apart_from_the_layouts() -> None:
    read = page(planted("rope"), suite(checks=(check("Layer 0 Value"),)))
    assert "✓ Pass Plumbline: 1 check in 1 case" in read.text
    assert (
        "Self-test Each run plants defects in small cases of its own. The checks must see every one of them. ✓ pass"
        in read.text
    )
    assert "1 of 1 planted defect seen tiny, fp64, local, gloo Seen: rope" in read.text, "a click away"
    assert "Layout MLA Checks Time ✓ tp2" in read.text
    assert [one["apart"] for one in read.data["suites"]] == [False, True]
    assert "Self-test" not in page(suite()).text


def test_a_planted_defect_that_was_not_seen_turns_the_run_red_and_is_named() -> None:
    read = page(planted("rope", "router bias"), suite(checks=(check("Layer 0 Value"),)))
    assert "✗ Fail Plumbline: 1 check in 1 case ✓ 1 pass ✗ 0 fail ✗ 1 of 2 planted defects not seen" in read.text
    assert "✗ fail Planted defect seen: router bias in self-test" in read.text
    assert "✗ fail 1 of 2 planted defects seen" in read.text
    assert "router bias : relative error 6.96e-01" in read.text


def test_self_tests_that_saw_everything_are_one_line() -> None:
    suites = [replace(planted("rope"), name=f"self-test-{n}") for n in range(5)]
    read = page(*suites, replace(planted("expert order", "router bias"), name="self-test-b"))
    found = read.text[read.text.index("Self-test Each") : read.text.index("About this run")]
    assert found.index("1 of 2 planted defects seen") < found.index("✓ pass 5 of 5 planted defects seen")
    assert found.count("Seen: rope") == 5


def test_checks_are_numbered_in_the_order_of_the_files_each_once() -> None:
    found = in_the_flow(
        [
            suite("tp2", (check("a"), check("c"), check("e"))),
            suite("pp2", (check("a"), check("b"), check("c"), check("d"), check("e"), check("a"))),
            suite("ep2", (check("y"), check("z"))),
        ]
    )
    assert "".join(name for _, name in found) == "abcdeyz"
    assert in_the_flow([]) == []


def test_a_known_bug_is_told_once_with_its_link_and_how_many_checks_show_it() -> None:
    read = page(suite(checks=(check("Layer 0 Value", "known"), check("Layer 1 Value", "known"))))
    assert read.text.count(BUG.removeprefix("known upstream bug: ").split(" (")[0]) == 1
    assert "2 checks in tp2" in read.text
    assert "https://github.com/NVIDIA/Megatron-LM/issues/1699" in read.attributes("href")


def test_without_a_script_verdict_layouts_and_failing_checks_are_there() -> None:
    checks = tuple(check(f"Layer {layer} Value", "fail") for layer in range(300))
    read = page(suite(checks=checks))
    without = read.text[read.text.index("Without a script") :]
    assert "✗ fail tp2 Layer 0 Value relative error 6.96e-01" in without
    assert "Layer 199 Value" in without
    assert "Layer 200 Value" not in without
    assert "100 more are in the JUnit files" in without


def test_the_overview_has_a_row_for_each_layout_and_the_worst_of_each_component() -> None:
    good, bad = check("Layer 0 Value"), check("Layer 1 Value", "fail")
    read = page(suite("tp2", (good, bad)), suite("single", (good, check("Loss", component="output"))))
    assert "Layout MLA Output Checks Time ✗ tp2 ✗ 7e9 2 1.5 s ✓ single 6e-6 6e-6 2 1.5 s" in read.text, "red ones first"
    cells = [attributes for tag, attributes in read.elements if tag == "td" and "data-at" in attributes]
    assert [cell["data-at"] for cell in cells] == ["1/0", "0/0", "0/1"], "as the script numbers them"
    assert cells[0]["title"] == "1 of 2 fail; worst: Layer 1 Value, 7e9 × limit"


def test_seconds_have_two_digits_behind_the_point() -> None:
    assert page(replace(suite(), seconds=1.2345)).data["suites"][0]["seconds"] == 1.23


def test_two_cases_of_one_layout_are_told_apart_by_what_differs() -> None:
    again = replace(suite(), name="tiny-tp2-bf16-local-gloo")
    again = replace(again, properties={**again.properties, "precision": "bf16"})
    found = [one["label"] for one in page(suite(), again, suite("pp2")).data["suites"]]
    assert found == ["pp2", "tp2 bf16", "tp2 fp64"]
    stock = replace(suite(), name="tiny-tp2-fp64-local-stock-gloo")
    stock = replace(stock, properties={**stock.properties, "implementation": "local-stock"})
    found = [one["label"] for one in page(suite(), again, stock).data["suites"]]
    assert found == ["tp2 bf16", "tp2 fp64 local", "tp2 fp64 local-stock"], "no more than it takes"
    other = replace(suite(), name="tiny-tp2-fp64-local-gloo-seed7")
    found = [one["label"] for one in page(suite(), other).data["suites"]]
    assert found == ["tiny-tp2-fp64-local-gloo", "tiny-tp2-fp64-local-gloo-seed7"]

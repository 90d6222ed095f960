"""The page as a file: it needs nothing else, it says what the results say, and nothing in them can get out of its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ci import cli, junit
from ci.diagnosis import Diagnosis
from ci.diagnosis.diagnosis import UNDECIDED
from ci.expected import Expected, Manifest
from ci.gate import Judgement
from ci.junit import Suite
from ci.page.data import in_the_flow
from ci.page.document import document
from ci.page.place import FORWARD, GRADIENTS, MODEL, PROBE_GRADIENTS, WEIGHTS, Place, component, place, row_order
from ci.page.run import badness, by_manifest, judged, level, share, short
from ci.page.text import anchor
from ci.reasons import verdicts
from ci.table import rows
from tests.ci.runs import BUG, case, check, suite, titles

LAYOUTS = next(row for row in rows() if row.session == "parity").layouts

HOSTILE = {
    "end of the script": "</script><script>hacked=1</script>",
    "end of the script with a space": "</script ><script >hacked=1</script >",
    "end of the script with more": "</script/x><script/x>hacked=1",
    "end of the script without its bracket": "</script ",
    "comment in the script": "<!--<script>",
    "comment and an open tag": "<!-- <script ",
    "end of the style": "</style></noscript></title><script>hacked=1</script>",
    "handler": '"><img src=x onerror=hacked=1><svg/onload=hacked=1>',
    "attribute": "' onfocus='hacked=1' autofocus='",
    "script address": "javascript:hacked=1 [a](javascript:hacked=1)",
    "data address": "data:text/html,<script>hacked=1</script>",
    "template": "$data ${policy} {{constructor.constructor('hacked=1')()}}",
    "line separators": "a\u2028b\u2029c",
    "right to left": "\u202egnp.exe\u202c <b>",
    "prototype": "__proto__",
    "address with markup": 'https://example.com/"onmouseover="hacked=1',
    "long": "x" * 100_000,
    "many digits": f"Layer {'9' * 5000} Attention Output",
}


class Read(HTMLParser):
    """What a browser would see: elements, and what stands in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.elements.append((tag, dict(attrs)))
        self._in = tag if tag in self.inside else ""
        if self._in:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        """What follows is text again."""
        self._in = ""

    def handle_data(self, data: str) -> None:
        """Text, or what is in a script."""
        if self._in:
            self.inside[self._in][-1] += data
        else:
            self.words.append(data)

    @property
    def data(self) -> Any:
        """What the script is given."""
        return json.loads(self.inside["script"][0])

    @property
    def text(self) -> str:
        """All that is not a script."""
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


def page(*suites: Suite, title: str = "Plumbline") -> Read:
    return Read(document(judged(suites), title))


def everywhere(text: str) -> Suite:
    """A suite that has the text in every place that results can fill."""
    one = check(text, "fail", text, note=text, wrong=text, reproduce=text, worst_index=text, ranks=text, max_diff=text)
    known = check("Loss", "known")
    bug = replace(known, message=f"KNOWN: known upstream bug: {text}", details=text)
    found = suite(checks=(replace(one, message=text, details=text), bug))
    return Suite(text, found.checks, dict.fromkeys([*found.properties, text], text), 1.0, text)


# --- Nothing but the file ---


def test_the_page_loads_nothing() -> None:
    read = page(suite(), suite("pp2", status="known"), suite("ep2", status="fail"))
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form action", "video", "audio"}
    assert read.attributes("src") == []
    assert all(re.match(r"#|https://github\.com/NVIDIA/", address) for address in read.attributes("href"))
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|innerHTML =", "".join(read.inside["style"])
    )
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|eval|innerHTML|insertAdjacentHTML)\b *[(=]", read.inside["script"][1]
    )


def test_the_policy_allows_this_style_and_this_script_and_nothing_else() -> None:
    read = page(suite())
    (policy,) = [at["content"] for _, at in read.elements if at.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in (policy or "").split("; "))
    assert rules["default-src"] == "'none'"
    for kind, content in (("style", read.inside["style"][0]), ("script", read.inside["script"][1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_in_the_results_becomes_an_element_an_attribute_or_an_address(text: str) -> None:
    harmless, read = page(everywhere("word")), page(everywhere(text), title=text)
    assert [tag for tag, _ in read.elements if tag != "a"] == [tag for tag, _ in harmless.elements if tag != "a"]
    known = {name for _, attributes in harmless.elements for name in attributes}
    assert {name for _, attributes in read.elements for name in attributes} <= known | {"rel"}
    assert all(
        address.startswith(("#", "https://")) and "hacked" not in address.partition("#")[0]
        for address in read.attributes("href")
    )
    assert len(read.inside["script"]) == 2
    # Browsers end a script at more than this parser does.
    assert not set("<>&") & set(read.inside["script"][0])


@pytest.mark.parametrize("text", [text for text in HOSTILE.values() if len(text) < 200])
def test_whatever_the_results_say_reaches_the_script_as_it_is(text: str) -> None:
    data = page(everywhere(text)).data
    assert data["suites"][0]["name"] == text
    assert [title for title, *_ in data["entries"]] == [text, "Loss"]
    assert ["note", text] in data["more"]["0"]["other"]


def test_a_page_of_every_layout_stays_small() -> None:
    suites = [suite(layout) for layout in LAYOUTS]
    assert sum(len(one.checks) for one in suites) > 13_000
    assert len(document(judged(suites), "Plumbline").encode()) < 2_000_000


def test_a_page_stays_below_five_megabytes_when_everything_fails_with_a_long_message() -> None:
    suites = [suite(layout, status="fail") for layout in LAYOUTS]
    long = [
        replace(one, checks=tuple(replace(it, message=it.message + "; wrong" * 300) for it in one.checks)) for one in suites
    ]
    text = document(judged(long), "Plumbline")
    assert len(text.encode()) < 5_000_000
    assert len(Read(text).data["more"]) == sum(len(one.checks) for one in suites)
    assert "… (more in JUnit)" in text


# --- What it says ---


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
    expected = Expected("a.xml", there.name, 2, {}, {}, names)
    lost = Expected("b.xml", "tiny-pp2", 2, {"arrangement": "pp2"}, {}, names[:1])
    judgement = Judgement((("a.xml", "1 check is missing"), ("b.xml", "No such file")), ((expected, there),))
    run = by_manifest(Manifest((expected, lost)), judgement)
    assert (run.verdict, run.counts["missing"], run.counts["pass"]) == ("error", 2, 1)
    read = Read(document(run, "Plumbline"))
    assert "a.xml: 1 check is missing" in read.text
    assert "b.xml: No such file" in read.text
    assert "1 of 2 checks are missing" in read.text
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
    assert "1 checks were not evaluated, and nothing else says why" in alone.text
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


def test_what_to_do_next_is_a_link_where_there_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    junit.write(tmp_path / "a.xml", suite(checks=(check("Layer 0 Value", "fail", reproduce="python -m validation run -k a"),)))
    on_github = {"GITHUB_SERVER_URL": "https://github.example", "GITHUB_REPOSITORY": "o/n", "GITHUB_RUN_ID": "77"}
    on_github |= {"PLUMBLINE_REPOSITORY": "o/plumbline", "PLUMBLINE_REF": "main"}
    for name in on_github:
        monkeypatch.delenv(name, raising=False)
    output = tmp_path / "report.html"
    assert command("--results", tmp_path, "--output", output) == 0
    local = Read(output.read_text(encoding="utf-8"))
    assert "What to do with a first red check: docs/first-red-check.md" in local.text
    assert "PLUMBLINE_REPOSITORY=..." in local.data["suites"][0]["setup"]
    for name, value in on_github.items():
        monkeypatch.setenv(name, value)
    assert command("--results", tmp_path, "--output", output) == 0
    hosted = Read(output.read_text(encoding="utf-8"))
    wanted = {"https://github.example/o/n/actions/runs/77"}
    wanted |= {"https://github.example/o/plumbline/blob/main/docs/first-red-check.md"}
    assert wanted <= set(hosted.attributes("href"))
    assert "fetch --quiet --depth 1 https://github.example/o/plumbline 0123456789abcdef" in hosted.text


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
    expected = Expected("a.xml", failed.name, 2, {}, {}, (("mla", "Layer 0 Value"),))
    of_check, other = next(verdicts(failed.checks)), "made on commit unknown"
    judgement = Judgement((("a.xml", of_check), ("a.xml", other), ("b.xml", other), ("c.xml", other)), ((expected, failed),))
    run = by_manifest(Manifest((expected,)), judgement)
    assert run.reasons == (f"a.xml and 2 more: {other}",)
    assert run.verdict == "fail"
    assert Read(document(run, "Plumbline")).text.count("relative error 6.96e-01 > 1e-10") == 2, "once, and for no script"


def planted(seen: str, unseen: str = "") -> Suite:
    """A self-test with a planted defect that was seen, and one that was not."""
    checks = [check(f"Planted defect seen: {seen}", component="self_test")]
    checks += [check(f"Planted defect seen: {unseen}", "fail", "self_test")] if unseen else []
    return replace(suite(checks=tuple(checks)), name="self-test-tiny-tp2-fp64-local-gloo")


def test_the_self_test_is_told_apart_from_the_layouts() -> None:
    read = page(planted("rope"), suite(checks=(check("Layer 0 Value"),)))
    assert "✓ Pass Plumbline: 1 checks in 1 case" in read.text
    assert (
        "Self-test Each run plants defects in small cases of its own. The checks must see every one of them. ✓ pass"
        in read.text
    )
    assert "1 of 1 planted defects seen tiny, fp64, local, gloo Seen: rope" in read.text, "a click away"
    assert "Layout MLA Checks Time ✓ tp2" in read.text
    assert [one["apart"] for one in read.data["suites"]] == [False, True]
    assert "Self-test" not in page(suite()).text


def test_a_planted_defect_that_was_not_seen_turns_the_run_red_and_is_named() -> None:
    read = page(planted("rope", "router bias"), suite(checks=(check("Layer 0 Value"),)))
    assert "✗ Fail Plumbline: 1 checks in 1 case ✓ 1 pass ✗ 0 fail ✗ 1 of 2 planted defects not seen" in read.text
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


# --- Numbers ---


@pytest.mark.parametrize(
    ("status", "numbers", "found", "shown", "deep"),
    [
        ("pass", {"rel_error": "4e-16"}, 4e-6, "4e-6", 2),
        ("pass", {"rel_error": "9e-11"}, 0.9, "0.9", 7),
        ("pass", {"rel_error": "0.0"}, 0.0, "=", 0),
        ("pass", {"rel_error": "0.0", "tolerance": "0.0"}, 0.0, "=", 0),
        ("pass", {"rel_error": "0.2", "tolerance": "0.0"}, None, "–", 0),
        ("pass", {"rel_error": "0.5"}, None, "–", 0),
        ("fail", {"rel_error": "0.2", "tolerance": "0.0"}, float("inf"), "∞", 3),
        ("fail", {"rel_error": "nan"}, float("inf"), "∞", 3),
        ("fail", {"rel_error": "2e-10"}, 2.0, "2", 0),
        ("fail", {"rel_error": "0.7"}, 7e9, "7e9", 3),
        ("pass", {"rel_error": "0.02", "tolerance": "0.08", "floor": "0.04"}, 0.25, "0.5", 6),
        ("fail", {"rel_error": "0.8", "tolerance": "0.08", "floor": "0.04"}, 10.0, "20", 1),
        ("error", {"rel_error": "0.7"}, 7e9, "", 3),
    ],
)
def test_a_number_is_the_share_of_the_limit_or_with_a_floor_how_many_floors(
    status: str, numbers: dict[str, str], found: float | None, shown: str, deep: int
) -> None:
    one = check(status=status, **numbers)
    assert share(one) == (None if found is None else pytest.approx(found))
    assert (short(one), level(one)) == (shown, deep)


def test_the_worst_of_several_checks_is_the_one_that_fails_and_then_the_one_farthest_off() -> None:
    checks = [
        check("passes"),
        check("passes near the limit", rel_error="9e-11"),
        check("known", "known"),
        check("not decided", "error"),
        check("fails", "fail", rel_error="1e-9"),
        check("fails by more", "fail"),
    ]
    mixed = checks[3:] + checks[:3]
    assert sorted(mixed, key=badness) == checks


# --- Places ---


@pytest.mark.parametrize(
    ("title", "cell"),
    [
        ("Embedding Output", Place(FORWARD, "Embedding Output", MODEL)),
        ("Layer 3 Attention Output", Place(FORWARD, "Attention Output", "3")),
        ("MTP 0 Logits Gradient", Place(PROBE_GRADIENTS, "Logits", "MTP 0")),
        ("Layer 3 KV Down Projection Weight", Place(WEIGHTS, "KV Down Projection Weight", "3")),
        ("Layer 3 KV Down Projection Weight Gradient", Place(GRADIENTS, "KV Down Projection Weight", "3")),
        ("Step 2 Layer 1 Router Weight First Moment", Place("Step 2", "Router Weight", "1")),
        ("Step 1 Gradient Norm", Place("Step 1", "Gradient Norm", MODEL)),
        ("Every rank finishes", None),
        ("Planted defect seen: rope", None),
        ("Layer 0 Something of One's Own", None),
    ],
)
def test_a_title_says_where_its_check_stands(title: str, cell: Place | None) -> None:
    assert place(title) == cell


@pytest.mark.parametrize("arrangement", ["single", "tp2+mtp", "tp2ep2+seqaux+mean"])
def test_every_tensor_that_a_case_compares_has_a_cell(arrangement: str) -> None:
    assert [title for _, title in titles(case(arrangement)) if place(title) is None] == []


def test_rows_follow_the_flow_of_data() -> None:
    wanted = ["Embedding Output", "Projection Output", "Input Norm Output", "Attention Output", "Router Logits", "Layer Output"]
    wanted += [
        "Final Norm Output",
        "Logits",
        "Loss",
        "Embedding Weight",
        "Input Norm Weight",
        "MLP Up Weight",
        "Final Norm Weight",
    ]
    mixed = wanted[7:] + wanted[:7]
    assert sorted(mixed, key=row_order) == wanted


def test_a_module_of_ones_own_is_a_component_under_its_own_name() -> None:
    found = [component(name) for name in ("mla", "probe_gradients", "my_check")]
    assert found == ["MLA", "Probe gradients", "My check"]


def test_a_link_to_a_check_holds_whatever_its_name_holds() -> None:
    assert anchor("tiny-tp2", "Layer 0 a/b#c%") == "tiny-tp2/Layer%200%20a%2Fb%23c%25"


# --- The command ---


def command(*words: object) -> int:
    return cli.main(["page", *map(str, words)])


def test_the_command_writes_the_page_of_a_folder_and_of_the_folders_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit.write(tmp_path / "results" / "a.xml", suite("tp2"))
    junit.write(tmp_path / "results" / "results-parity" / "b.xml", suite("pp2"))
    output = tmp_path / "new" / "report.html"
    assert command("--results", tmp_path / "results", "--output", output) == 0
    assert "report.html: pass, 1,306 checks in 2 cases" in capsys.readouterr().out
    assert len(Read(output.read_text(encoding="utf-8")).data["suites"]) == 2
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


def test_a_file_that_cannot_be_read_is_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<testsuite")
    assert command("--results", tmp_path, "--output", tmp_path / "report.html") == 0
    assert "unreadable: a.xml" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "verdict", "said"),
    [
        ([], "Pass", "in 1 case"),
        (
            ["--base", "{base}"],
            "Fail",
            "drift: a.xml: Layer 0 Value (mla): 0.9 of its limit, and 6e-06 on the base branch",
        ),
        (["--base", "{base}", "--accept", "a > b"], "Pass", "1 drifted from the base branch, accepted: a > b"),
    ],
)
def test_drift_is_red_on_the_page_unless_it_is_accepted(tmp_path: Path, words: list[str], verdict: str, said: str) -> None:
    junit.write(tmp_path / "base" / "a.xml", suite(checks=(check("Layer 0 Value", rel_error="6e-16"),)))
    junit.write(tmp_path / "now" / "a.xml", suite(checks=(check("Layer 0 Value", rel_error="9e-11"),)))
    given = [word.format(base=tmp_path / "base") for word in words]
    assert command("--results", tmp_path / "now", "--output", tmp_path / "report.html", *given) == 0
    read = Read((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"{verdict} Plumbline: 1 checks" in read.text
    assert said in read.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--results", "{folder}/none"], "is no folder; --results names"),
        (["--results", "{folder}"], "no JUnit file (*.xml) in"),
        (["--results", "{folder}/good", "--output", "{folder}"], "cannot be written"),
    ],
)
def test_wrong_usage_is_said_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    junit.write(tmp_path / "good" / "a.xml", suite())
    (folder / "good").symlink_to(tmp_path / "good")
    if "{folder}" in words[1:2]:
        (folder / "good").unlink()
    assert command(*(word.replace("{folder}", str(folder)) for word in words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line

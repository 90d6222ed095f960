"""The numbers and the places of checks on the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.page.place import FORWARD, GRADIENTS, MODEL, PROBE_GRADIENTS, WEIGHTS, Place, component, in_order, place, row_order
from ci.page.run import badness, judged, level, share, short
from ci.page.text import anchor
from tests.ci.runs import case, check, suite, titles


@pytest.mark.parametrize(
    ("status", "numbers", "found", "shown", "deep"),
    [
        ("pass", {"rel_error": "4e-16"}, 4e-6, "4e-6", 2),
        ("pass", {"rel_error": "9e-16"}, 9e-6, "9e-6", 2),
        ("pass", {"rel_error": "9e-11"}, 0.9, "0.9", 7),
        ("pass", {"rel_error": "0.0"}, 0.0, "=", 0),
        ("pass", {"rel_error": "0.0", "tolerance": "0.0"}, 0.0, "=", 0),
        ("pass", {"rel_error": "0.2", "tolerance": "0.0"}, None, "✓", 0),
        ("pass", {"rel_error": "0.5"}, None, "✓", 0),
        ("fail", {"rel_error": "0.2", "tolerance": "0.0"}, float("inf"), "∞", 3),
        ("fail", {"rel_error": "nan"}, float("inf"), "∞", 3),
        ("fail", {"rel_error": "2e-10"}, 2.0, "2", 0),
        ("fail", {"rel_error": "0.7"}, 7e9, "7e9", 3),
        ("fail", {"rel_error": "1e-15"}, 1e-5, "1e-5", 0),
        ("fail", {"rel_error": "9e-8"}, 900, "900", 0),
        ("fail", {"rel_error": "0.09"}, 9e8, "9e8", 2),
        ("fail", {"rel_error": "9.99e-8"}, 999, "1e3", 0),
        ("fail", {"rel_error": "9.9e-13"}, 0.0099, "1e-2", 0),
        ("fail", {"rel_error": "1000.0", "tolerance": "2.0", "floor": "1.0"}, 500, "1e3", 2),
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


@pytest.mark.parametrize("missing", ["rel_error", "tolerance"])
def test_a_check_without_an_error_or_without_a_limit_has_no_share(missing: str) -> None:
    one = check()
    assert share(replace(one, properties={name: value for name, value in one.properties.items() if name != missing})) is None


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


def test_titles_in_order_are_those_in_front_then_the_others_then_those_behind() -> None:
    titles = {"norm": "Norm", "one": "One", "head": "Head", "two": "Two", "embedding": "Embedding"}
    assert in_order(titles, ("embedding",), ("norm", "head")) == ["Embedding", "One", "Two", "Norm", "Head"]
    assert in_order(titles, ("two",)) == ["Two", "Norm", "One", "Head", "Embedding"]


def test_a_case_of_unknown_size_comes_before_one_of_one_rank() -> None:
    unknown = replace(suite("single"), name="unknown", properties={})
    assert [one.name for one in judged([suite("single"), unknown]).suites] == ["unknown", "tiny-single-fp64-local-gloo"]


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

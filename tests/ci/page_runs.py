"""Small made-up runs for approved pages. Together they show every part of the page, in each of its forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ci.diagnosis import Diagnosis
from ci.diagnosis.diagnosis import UNDECIDED
from ci.drift import Drift
from ci.expected import Expected, Manifest
from ci.gate import Judgement
from ci.junit import Check, Suite
from ci.links import Links
from ci.page.history import History, Point
from ci.page.run import Run, by_manifest, drifted, judged
from ci.reproduction import Sources
from tests.ci.runs import BUG, check, suite
from validation.case.covered import Word, properties

LINKS = Links("https://github.example/o/n/actions/runs/77", "https://github.example/o/plumbline/blob/main/docs")
SOURCES = Sources("https://github.example/o/plumbline", "https://github.example/t/megatron", "sub", "src")
RUN = "python -m validation run --layouts tp2"
MEGATRON = "python -m validation run --preset tiny --layouts {} --megatron-path /m"
MADE_WITH = {
    "dirty": "true",
    "transformers": "5.14.0",
    "torch": "2.13.0",
    "transformer-engine": "absent",
    "python": "3.12.1",
    "seed": "1234",
    "gpu": "",
    "driver": "580",
    "cpu": "Two <cores>",
}


def with_properties(of: Suite, **changed: str) -> Suite:
    """The testsuite with other properties."""
    return replace(of, properties={**of.properties, **changed})


def _failing(layout: str) -> Suite:
    how = MEGATRON.format(layout)
    one = check("Layer 0 Attention Output", "fail", reproduce=f"{how} -- -k a")
    later = check("Layer 1 Attention Output", "fail", rel_error="0.8")
    return with_properties(suite(layout, (one, later)), reproduce=how)


def planted(name: str, *statuses: str, **changed: str) -> Suite:
    """A self-test whose planted defects ended like this."""
    checks = tuple(
        check(f"Planted defect seen: defect {number}", status, "self_test") for number, status in enumerate(statuses)
    )
    return replace(with_properties(suite(checks=checks), **changed), name=f"self-test-{name}")


def red() -> Run:
    """A cause that is likely, failures in several layouts, and each other status."""
    one = (
        Check("weights", "Embedding Weight", "missing", message="the manifest demands it, and no result has it"),
        check("Every rank finishes", component="run", rel_error="", tolerance=""),
        check("Layer 0 Key after RoPE"),
        replace(check("Layer 0 Attention Output", "fail", reproduce="python -m validation run --layouts tp2; rm -rf ~")),
        check("Layer 1 Attention Output", "fail", rel_error="nan", pattern="every second row"),
        check("Loss", "error", "output", rel_error="", tolerance="", max_diff="inf", avg_diff="-inf"),
        Check("my_check", "Own <b>", "pass", details="first line\n  and more \n"),
    )
    several = [_failing(layout) for layout in ("tp2pp2", "tp2ep2", "tp2cp2", "tp4")]
    several[1] = replace(several[1], seconds=1234.56)
    missing = (check("Layer 0 Value"), Check("mla", "Layer 1 Value", "missing"), Check("mla", "Layer 2 Value", "missing"))
    behind = replace(check("Loss", component="output"), status="unevaluated", message="not evaluated: a rank ended")
    known = check("Layer 0 Value", "known"), check("Layer 1 Value", "known"), behind
    said = replace(known[0], name="Layer 2 Value", message="KNOWN: a known upstream bug: known upstream bug: another")
    green = check("Layer 0 Value"), check("Layer 1 Value"), check("Layer 0 MLP Output", component="mlp")
    tests = planted("a", "pass", "pass"), planted("b", "pass", gpu="x"), planted("c", "pass", "missing", "fail", "unevaluated")
    found = judged(
        [
            with_properties(suite("tp2", one), **MADE_WITH),
            *several,
            suite("ep2", missing),
            replace(with_properties(suite("single", (*known, said)), run="2026-01-30T11:00:00.123-b"), timestamp=""),
            replace(with_properties(suite("pp2", green), run="2026-01-31T11:00:00.123-a"), timestamp="2026-02-01T00:00:01"),
            with_properties(suite("cp2", (*green[:1], said)), commit="f" * 40, preset="", run="2026-01-29", command="another"),
            *tests,
            planted("d", "fail", transport=""),
        ]
    )
    reasons = (f"b.xml and 2 more: {BUG}.", "c.xml: <script> is no check")
    return replace(found, links=LINKS, sources=SOURCES, reasons=reasons)


def layers(errors: tuple[str, ...], what: str = "Value", component: str = "mla", **properties: str) -> tuple[Check, ...]:
    """A check in each layer."""
    return tuple(
        check(f"Layer {layer} {what}", component=component, rel_error=error, **properties) for layer, error in enumerate(errors)
    )


def green() -> Run:
    """Nothing but passes, drift that somebody accepted, and trends."""
    checks = (*layers(("1e-15", "3e-13", "0.0")), *layers(("2e-15", "2e-14", "5e-12"), "Attention Output"))
    nearer = layers(("3e-11", "9e-11"), "MLP Output", "mlp")
    steps = (
        check("Step 1 Router Weight First Moment", component="steps"),
        check("MTP 0 Logits Gradient", component="probe_gradients"),
        check("Step 2 Gradient Norm", component="steps", rel_error="0.5"),
        check("Layer 1 MLP Up Weight Gradient", component="gradients", tolerance="0.0", rel_error="0.0"),
    )
    both = {("MLA", "fp64"): 1e-5, ("MLA", "bf16"): 0.5, ("Dense MLP", "fp64"): 0.0}
    earlier = Point("2026-01-01T02:17", {("MLA", "fp64"): 1e-6, ("MLA", "bf16"): 0.4, ("Gone", "fp64"): 1.0})
    last = Point("2026-01-03T02:17", {**both, ("Dense MLP", "fp64"): 0.9, ("Own", "fp64"): float("inf")})
    history = History((earlier, Point("2026-01-02T02:17", both), last), ("day1/a.xml: not <JUnit>", "day1/b.xml: empty"))
    found = judged(
        [
            with_properties(suite("tp2", (*checks, *nearer)), run="2026-01-31T11:00:00.1-a"),
            suite("pp2", steps),
            planted("a", "pass"),
        ]
    )
    moved = Drift(vanished=["a.xml: Layer 0 Value (mla)"], accepted="a > b")
    return replace(drifted(found, moved), history=history)


def floors() -> Run:
    """The lower precisions, beside fp64, and a file of earlier runs that cannot be read."""
    low = {"tolerance": "0.08", "floor": "0.04"}
    checks = (*layers(("0.01", "0.02", "0.079"), **low), check("Loss", "fail", "output", rel_error="0.8", **low))
    one = with_properties(suite("tp2", checks), precision="bf16")
    other = suite("tp2", (check(), check("Layer 1 Attention Output")))
    third = with_properties(replace(suite("tp2", (check(),)), name="tiny-tp2-stock"), implementation="local-stock", ranks="x")
    found = judged([replace(one, name="tiny-tp2-bf16-local-gloo"), other, third])
    return replace(found, history=History((), ("day1/a.xml: empty",)), links=Links(LINKS.run))


def certain() -> Run:
    """A cause that is certain, on the only layouts that have it, with what would decide."""
    bad, good = check("Layer 0 Attention Output", "fail", reproduce=RUN), check("Layer 0 Attention Output")
    found = judged(
        [
            suite("tp2", (bad,)),
            suite("tp2pp2", (bad,)),
            suite("tp4", (bad,)),
            suite("tp2ep2", (bad,)),
            suite("single", (good,)),
            suite("pp2", (good,)),
        ]
    )
    return replace(found, sources=SOURCES, links=Links("", LINKS.docs))


def undecided() -> Run:
    """Several causes."""
    found = judged([suite("tp2", (check("Loss", "error", "output"),)), suite("pp2", ())], ["a.xml: not JUnit XML"])
    return replace(found, diagnosis=Diagnosis("2 of 9 cases fail: not decided", (UNDECIDED,), False, deciding="tp4 would"))


def by_a_manifest() -> Run:
    """Checks and whole files that are not there, and one reason in several places."""
    there = suite(checks=(check("Layer 0 Value"), check("Layer 1 Value", "fail")))
    names = (("mla", "Layer 0 Value"), ("mla", "Layer 1 Value"), ("mla", "Layer 2 Value"))
    expected = Expected("a.xml", there.name, 2, {}, (), names)
    lost = Expected("b.xml", "tiny-pp2", 2, {"arrangement": "pp2"}, (), names[:1])
    reasons = ("a.xml", "1 check is missing"), ("b.xml", "No such file"), ("c.xml", "No such file")
    return by_manifest(Manifest((expected, lost)), Judgement(reasons, ((expected, there),)))


def drift() -> Run:
    """Green, but for what has drifted."""
    return drifted(judged([suite("tp2", (check(), *layers(("nan", "1e-12"))))]), Drift(vanished=["a.xml: Layer 0 Value (mla)"]))


def unevaluated() -> Run:
    """Nothing fails, and not everything was evaluated; and one check and no layer for a picture."""
    one = replace(check("Layer 0 Value"), status="unevaluated", message="not evaluated: the run did not finish")
    nothing = replace(planted("b"), properties={})
    return judged(
        [
            with_properties(suite("tp2", (one, one)), left_out="2", gpu="", commit="unknown"),
            planted("a", "unevaluated", "pass"),
            nothing,
        ]
    )


def empty() -> Run:
    """No file at all."""
    return judged([])


def recipes() -> Run:
    """Two recipes, one in two cases, and one that contradicts itself."""
    first = {
        "model.moe_aux_loss_coeff=0.0001": Word("equal"),
        "model.moe_router_dtype=fp32": Word("not exercised here", "fp64 hides it"),
        "model.moe_permute_fusion=true": Word("needs", "Transformer <Engine>"),
        "--lora-name <b>": Word("cannot be compared", "adapters train beside the weights"),
    }
    second = first | {"model.moe_router_dtype=fp32": Word("different", "known upstream bug: <b>")}
    one, other = (with_properties(suite("tp2", (check(),)), **properties("run & <x>.txt", words)) for words in (first, second))
    lane = with_properties(replace(other, name="lane"), precision="bf16")
    plain = with_properties(suite("ep2", (check(),)), **properties("empty.yaml", {}))
    forged = with_properties(suite("pp2", (check(),)), recipe="forged.txt", coverage="9 equal")
    return judged([one, lane, plain, forged])


RUNS: Mapping[str, Callable[[], Run]] = {
    one.__name__: one for one in (red, green, floors, certain, undecided, by_a_manifest, drift, unevaluated, empty, recipes)
}

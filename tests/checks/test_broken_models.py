"""Models that are wrong: each defect is seen, where it is, and the first that went wrong is what the user is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from ci import junit
from tests.checks.conftest import BROKEN, LAYERS, RUNS
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.probes import probes

if TYPE_CHECKING:
    from tests.checks.conftest import Output

MODEL = replace(TINY.model, num_hidden_layers=LAYERS)
PROBES = [probe.title for probe in probes(MODEL, TINY.batch_size, TINY.seq_length).values()]
"""Every probe's title in data-flow order."""
WEIGHTS = [parameter.title for parameter in parameters(MODEL).values()]
GRADIENTS = [f"{title} Gradient" for title in (*PROBES, *WEIGHTS)]
ALL_GRADIENTS = [
    *(f"{probe.title} Gradient" for probe in probes(MODEL, TINY.batch_size, TINY.seq_length).values() if probe.has_gradient),
    *(f"{parameter.title} Gradient" for parameter in parameters(MODEL).values() if parameter.trained),
]
"""Of probes and parameters, those that there are."""


@dataclass(frozen=True)
class Defect:
    """What must be seen of a defect: the first check that fails in data-flow order, and a word of its reasons."""

    first: str
    said: str
    weights: tuple[str, ...] = ()
    gradients: tuple[str, ...] | None = None
    """The gradients that fail, and no others; None where the forward pass is wrong and gradients follow."""

    @property
    def probe(self) -> str | None:
        """The first probe that fails; None where the forward pass is right."""
        return None if self.gradients is not None else "Layer 1 Routed Experts Output" if self.weights else self.first


DEFECTS = {
    "gate_and_up_swapped": Defect(
        "Layer 1 Experts Gate Weight",
        r"max diff .* worst at \[5, \d+, \d+\] on rank 0; wrong: rank 0 \[5, 0:32, 0:64\]; pattern: expert 5 only$",
        weights=("Layer 1 Experts Gate Weight", "Layer 1 Experts Up Weight"),
    ),
    "mapped_wrongly": Defect("Layer 1 Routed Experts Output", "relative error"),
    "yarn_scale_dropped": Defect(
        "Layer 0 Core Attention Output",
        r"relative error .*; wrong: rank 0 \[0:4, 1:48, 0:4, 0:16\]; pattern: every position but the first, .*; "
        "on one rank: modelling$",
    ),
    "reduction_lost": Defect(
        "Layer 0 Attention Output",
        r"scaled by 0.*; wrong: rank 0 \[0:4, 0:24, 0:64\], rank 1 \[0:4, 24:48, 0:64\]; "
        r"sharding: off by 6\.9e-01 from the same",
    ),
    "nan_in_one_gradient": Defect(
        "Layer 1 Attention Output Projection Weight Gradient",
        r"Max diff: nan, .*; 1 element of the candidate is not finite; .*; worst at \[3, 37\] on rank 1; "
        r"wrong: rank 1 \[3, 37\]; pattern: rank 1 only \(tp 1, etp 1\), one element only;",
        gradients=("Layer 1 Attention Output Projection Weight Gradient",),
    ),
    "gradient_reduction_lost": Defect(
        "Layer 1 Router Weight Gradient",
        r"replicas of \[0:16, 0:64\] on ranks 0, 1 differ in their bytes; .*; scaled by 0\..*; "
        r"wrong: rank 0 \[15 in 0:16, 0:64\], rank 1 \[0:16, 0:64\]; "
        r"pattern: the copies on ranks 0-1 have the reference as their sum: .*; before reduction the ranks' "
        r"sum is off by \d\.\de-1\d: the reduction is what is wrong",
        gradients=("Layer 1 Router Weight Gradient",),
    ),
    "norm_unmarked": Defect(
        "Layer 1 Input Norm Weight Gradient",
        r"replicas of \[0:64\] on ranks 0, 1 differ.*; pattern: the copies on ranks 0-1 have the reference as their sum",
        gradients=("Layer 1 Input Norm Weight Gradient",),
    ),
    "loss_not_scaled_by_cp": Defect(
        "Token Losses Gradient",
        r"scaled by 0\.5;.*; "
        r"pattern: 0\.5 times the reference everywhere "
        r"\(1/cp or 1/micro-batches: a sum or a factor is missing",
        gradients=tuple(ALL_GRADIENTS),
    ),
    "expert_gradients_over_the_wrong_group": Defect(
        "Layer 1 Experts Down Weight Gradient",
        "relative error",
        gradients=tuple(f"Layer 1 Experts {part} Weight Gradient" for part in ("Down", "Up", "Gate")),
    ),
    "one_bucket_never_reduced": Defect(
        "Output Layer Weight Gradient",
        r"replicas of .* on ranks 0, 1 differ in their bytes; .*; scaled by 0\..*; pattern: the copies on ranks 0-1 have the "
        "reference as their sum",
        gradients=tuple(f"{title} Gradient" for title in WEIGHTS if "Bias" not in title),
    ),
    "expert_bias_from_own_tokens": Defect("Step 1 Layer 1 Router Expert Bias", "replicas of", gradients=()),
    "norm_of_copies": Defect("Step 1 Gradient Norm", r"scaled by 1\.", gradients=()),
}
each_defect = pytest.mark.parametrize(("name", "defect"), DEFECTS.items(), ids=DEFECTS)


@each_defect
def test_a_defect_fails_the_run(broken: dict[str, Output], name: str, defect: Defect) -> None:
    """Exit code 1, and the overall result counts what failed."""
    found = broken[name]
    assert found.code == 1
    (failed,) = re.findall(r"^===== Overall result: FAIL \(\d+ checks, (\d+) fail, \d+\.\d s\) =====$", found.text, re.M)
    assert int(failed) == len(found.titles("FAIL")) > 0


@each_defect
def test_a_defect_is_seen_where_it_is(broken: dict[str, Output], name: str, defect: Defect) -> None:
    """Weights before it, probes before it and what it has nothing to do with all pass; it does not."""
    failed = set(broken[name].titles("FAIL"))
    assert failed & set(WEIGHTS) == set(defect.weights)
    assert [title for title in PROBES if title in failed][:1] == ([defect.probe] if defect.probe else [])
    if defect.gradients is not None:
        assert failed & set(GRADIENTS) == set(defect.gradients)


@each_defect
def test_the_first_failure_in_data_flow_order_is_named(broken: dict[str, Output], name: str, defect: Defect) -> None:
    """The summary names the check that is nearest to the cause, with its numbers and reasons, and how to run it again."""
    (line,) = re.findall(r"^First in \S+: (FAIL: .*)$", broken[name].text, re.M)
    assert line.startswith(f"FAIL: {defect.first} - Max diff: ")
    assert line == broken[name].line(defect.first)
    (how,) = re.findall(r"^Reproduce: (.*)$", broken[name].text, re.M)
    assert how.startswith(f"python -m validation run --preset tiny --set num_hidden_layers={LAYERS} --layouts {RUNS[name]} ")
    assert f" --implementation {BROKEN}:{name} --only " in how
    assert len(re.findall(r"^What the words mean: \S+/words-in-failures\.md \([a-z].*\)$", broken[name].text, re.M)) == 1


@each_defect
def test_a_failure_says_what_is_wrong_with_the_tensor(broken: dict[str, Output], name: str, defect: Defect) -> None:
    """Its line has the pattern that points to the cause."""
    assert re.search(defect.said, broken[name].line(defect.first))


def test_a_balance_of_one_rank_s_tokens_is_seen(broken: dict[str, Output]) -> None:
    """By the loss's value first, then by the gradient that reaches the router's logits."""
    found = broken["balance_of_own_tokens"]
    assert found.code == 1
    assert found.titles("FAIL")[:2] == ["Layer 1 Load Balancing Loss", "Layer 1 Router Logits Gradient"]
    assert "sharding: off by" in found.line("Layer 1 Load Balancing Loss")


def test_the_tensor_parallel_bug_of_the_stock_spec_is_seen(broken: dict[str, Output]) -> None:
    """Column-parallel down-projections train wrongly under tp2 while the forward pass is right (Megatron-LM #1699)."""
    found = broken["local-stock"]
    known = found.titles("KNOWN")
    assert {f"Layer {layer} KV Down Projection Weight Gradient" for layer in range(LAYERS)} <= set(known)
    assert {title for title in known if not title.startswith("Step ")} <= set(GRADIENTS)
    assert known[0] == f"Layer {LAYERS - 1} KV Latent Gradient"
    assert re.search(r"relative error .*; known upstream bug: .*/issues/1699", found.line(known[0]))


def test_the_tensor_parallel_bug_of_the_stock_spec_is_one_of_the_rotary_key(broken: dict[str, Output]) -> None:
    """Behind the last layer nothing else is wrong; the layers before it get a wrong gradient whole."""
    lines = [broken["local-stock"].line(f"Layer {layer} KV Down Projection Weight Gradient") for layer in range(LAYERS)]
    assert "; pattern: rotary dimensions only; " in lines[-1]
    assert re.search(r"wrong: rank 1 \[24:48, 0:64\], rank 0 \[16:24, 0:64\]; ", lines[-1])
    assert not any("pattern:" in line for line in lines[:-1])


def test_a_known_upstream_bug_does_not_fail_the_run(broken: dict[str, Output]) -> None:
    """Nothing else is wrong: exit code 0, what is known is counted, and in the file it is skipped."""
    found = broken["local-stock"]
    assert found.code == 0
    assert found.titles("FAIL") + found.titles("ERROR") == []
    known = len(found.titles("KNOWN"))
    assert re.search(rf"^===== Overall result: PASS \(\d+ checks, {known} with a known upstream bug, ", found.text, re.M)
    suite = found.suite("tiny-tp2-fp64-local-stock-gloo")
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", str(known))


def test_the_file_of_a_failing_run_counts_and_explains(broken: dict[str, Output]) -> None:
    """The failure's body has the whole text, because many viewers show nothing else."""
    suite = broken["nan_in_one_gradient"].suite("tiny-tp2-fp64-tests.checks.broken_specs.nan_in_one_gradient-gloo")
    failures = [(check, found) for check in suite.findall("testcase") for found in check.findall("failure")]
    assert (suite.get("failures"), suite.get("errors")) == (str(len(failures)), "0")
    assert int(suite.get("tests", 0)) == len(suite.findall("testcase")) > 100
    title = "Layer 1 Attention Output Projection Weight Gradient"
    ((check, failure),) = [found for found in failures if found[0].get("name") == title]
    numbers = {item.get("name"): item.get("value") for item in check.findall("properties/property")}
    (how,) = re.findall(r"^Reproduce: (.*)$", broken["nan_in_one_gradient"].text, re.M)
    assert numbers["reproduce"] == how
    assert check is next(one for one, _ in failures), "the first failure of the file is the one nearest to the cause"
    assert (failure.get("message") or "").startswith(f"FAIL: {title} - 1 element of the candidate is not finite; ")
    assert failure.get("type") == "not finite"
    assert (failure.text or "").splitlines()[0] == broken["nan_in_one_gradient"].line(title)
    assert (failure.text or "").splitlines()[-1] == f"reproduce: {how}"
    assert (numbers["wrong"], numbers["pattern"]) == ("rank 1 [3, 37]", "rank 1 only (tp 1, etp 1), one element only")
    assert (numbers["max_diff"], numbers["worst_index"], numbers["worst_rank"]) == ("nan", "[3, 37]", "1")


def test_every_failing_check_has_its_command_and_the_file_that_of_its_case(broken: dict[str, Output]) -> None:
    """The page shows each failure with it."""
    suite = broken["reduction_lost"].suite("tiny-tp2-fp64-tests.checks.broken_specs.reduction_lost-gloo")
    whole = {item.get("name"): item.get("value") for item in suite.findall("properties/property")}["reproduce"]
    assert whole is not None
    found = {check: check.find("properties/property[@name='reproduce']") for check in suite.findall("testcase")}
    failing = [how.get("value", "") for check, how in found.items() if check.find("failure") is not None and how is not None]
    assert len(failing) == len(set(failing)) == int(suite.get("failures", 0)) == sum(how is not None for how in found.values())
    assert all(how.startswith(f"{whole} --only ") for how in failing)


@pytest.mark.parametrize("name", ["yarn_scale_dropped", "reduction_lost"])
def test_failures_are_counted_in_the_file(broken: dict[str, Output], name: str) -> None:
    """As many failures as failing lines."""
    layout = "single" if name == "yarn_scale_dropped" else "tp2"
    suite = broken[name].suite(f"tiny-{layout}-fp64-tests.checks.broken_specs.{name}-gloo")
    assert int(suite.get("failures", 0)) == len(broken[name].titles("FAIL"))


def test_a_run_that_breaks_is_no_verdict(broken: dict[str, Output]) -> None:
    """One line names the rank and what it raised, its stack follows, and nothing is called passed or failed.

    The code raised: another try is not for such a run.
    """
    found = broken["raises"]
    assert found.code == 1
    assert found.titles("FAIL") + found.titles("PASS") == []
    assert len(found.titles("ERROR")) == 1
    assert 'rank 1 raised ZeroDivisionError("in the user\'s own spec")' in found.text
    assert re.search(r'broken_specs\.py", line \d+, in raises', found.text)
    assert re.search(
        r"^===== Overall result: ERROR \(\d+ checks, 1 error, \d+ not evaluated, \d+\.\d s\) =====$", found.text, re.M
    )


def test_the_file_of_a_broken_run_has_the_stack(broken: dict[str, Output]) -> None:
    """The run is the one error, and carries the rank's last words; the checks behind it were not evaluated."""
    suite = broken["raises"].suite("tiny-tp2-fp64-tests.checks.broken_specs.raises-gloo")
    assert suite.get("failures") == "0"
    assert suite.get("errors") == "1"
    assert int(suite.get("skipped", 0)) == int(suite.get("tests", 0)) - 1
    skipped = [check.find("skipped") for check in suite.findall("testcase")[1:]]
    assert {(one.get("type"), one.get("message")) for one in skipped if one is not None} == {
        ("not evaluated", "not evaluated: the run did not finish")
    }
    first = suite.findall("testcase")[0]
    (error,) = first.findall("error")
    assert "rank 1 raised ZeroDivisionError" in error.get("message", "")
    assert error.get("type") == "exception"
    assert "in raises" in (error.text or "")


def test_checks_keep_their_names_when_the_run_breaks(broken: dict[str, Output]) -> None:
    """Which checks were not decided is known: the gate finds each under the name that it has when the run ends."""
    names = [
        [(check.component, check.name) for check in junit.read(broken[name].results / f"{case}.xml").checks]
        for name, case in (
            ("local-stock", "tiny-tp2-fp64-local-stock-gloo"),
            ("raises", "tiny-tp2-fp64-tests.checks.broken_specs.raises-gloo"),
        )
    ]
    assert names[0] == names[1]

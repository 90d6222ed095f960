"""How far ranks go for the tensors that are asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from validation.case.case import Case
from validation.case.depth import ALL, BACKWARD, FORWARD, WEIGHTS, needed, serving
from validation.case.probes import observed
from validation.case.steps import stepped
from validation.run.options import parsed

(CASE,) = parsed(["--layouts", "tp2"]).cases
(STEP, *_) = stepped(CASE).values()


@pytest.mark.parametrize(
    ("names", "upto"),
    [
        ([], WEIGHTS),
        ([""], WEIGHTS),
        (["weights/lm_head.weight"], WEIGHTS),
        (["weights/lm_head.weight", "layers.0.attention.output"], FORWARD),
        (["loss"], FORWARD),
        (["probe_gradients/logits", "logits"], BACKWARD),
        (["gradients/lm_head.weight"], BACKWARD),
        ([STEP.name, "logits"], ALL),
        (["something else"], ALL),
    ],
    ids=str,
)
def test_the_one_that_needs_most_decides(names: list[str], upto: str) -> None:
    assert needed(CASE, names) == upto


def test_every_probe_of_the_forward_pass_needs_no_other() -> None:
    """But losses that are taken in when the backward pass has ended."""
    (case,) = parsed(["--layouts", "tp2+seqaux+mtp"]).cases
    found = {probe.kind for name, probe in observed(case).items() if needed(case, [name]) != FORWARD}
    assert found == {"moe.balancing", "mtp.loss"}


@pytest.mark.parametrize(
    ("words", "upto"),
    [
        (("--isolated",), BACKWARD),
        (("--stream",), ALL),
        (("--fp8", "delayed", "--precision", "bf16", "--implementation", "te", "--transport", "nccl"), BACKWARD),
    ],
    ids=str,
)
def test_a_step_that_is_one_is_not_cut(words: tuple[str, ...], upto: str) -> None:
    (case,) = parsed(["--layouts", "tp2", *words]).cases
    assert needed(case, ["logits"]) == upto


def test_a_reference_that_goes_further_serves() -> None:
    """The whole one first."""
    assert [case.upto for case in serving(replace(CASE, upto=FORWARD))] == [ALL, BACKWARD, FORWARD]
    assert serving(CASE) == (CASE,)


def test_a_case_is_called_the_same_however_far_it_goes() -> None:
    """And is read back as it was."""
    short = replace(CASE, upto=FORWARD)
    assert (short.name, short.title) == (CASE.name, CASE.title)
    assert "upto" not in CASE.to_json()
    assert Case.from_json(short.to_json()) == short

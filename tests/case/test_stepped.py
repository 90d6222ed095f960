"""What is compared of a step: below fp64 the gradients that each step behind the first takes, too."""

from __future__ import annotations

import pytest

from validation.case.case import Case
from validation.case.steps import made_of, stepped, trained
from validation.run.options import parsed

NORM = "model.norm.weight"


def case(*words: str) -> Case:
    (found,) = parsed(["--layouts", "single", "--steps", "3", *words]).cases
    return found


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (("--precision", "bf16"), True),
        (("--precision", "fp32"), True),
        (("--precision", "fp16"), True),
        (("--precision", "bf16", "--config", "optimizer.decoupled_weight_decay=false"), True),
        (("--precision", "fp64"), False),
        (("--precision", "bf16", "--config", "optimizer.optimizer=sgd"), False),
    ],
)
def test_gradients_of_later_steps_are_checks_below_fp64(words: tuple[str, ...], there: bool) -> None:
    """In front of the moments that are made of them; those of step 1 are the backward pass's, which are compared anyway."""
    of = case(*words)
    titles = {key: one.title for key, one in stepped(of).items() if key.split("/")[1] == "gradient"}
    wanted = {f"{step}/gradient/{one.name}": f"Step {step} {one.title} Gradient" for step in (2, 3) for one in trained(of)}
    assert titles == (wanted if there else {})
    if there:
        keys = list(stepped(of))
        assert keys.index(f"2/exp_avg/{NORM}") == keys.index(f"2/gradient/{NORM}") + 1


def test_a_moment_in_half_precision_does_not_tell_what_was_added() -> None:
    aware = ["--config", "optimizer.use_precision_aware_optimizer=true", "--config", "optimizer.exp_avg_dtype=bfloat16"]
    (of,) = parsed(["--layouts", "dp2+distributed", "--steps", "2", "--precision", "bf16", *aware]).cases
    assert not [key for key in stepped(of) if "/gradient/" in key]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("steps/2/value/a.weight", "steps/2/master/a.weight"),
        ("steps/12/exp_avg/a.weight", "steps/12/gradient/a.weight"),
        ("steps/2/exp_avg_sq/a.weight", "steps/2/exp_avg_sq/a.weight"),
        ("gradients/a.weight", "gradients/a.weight"),
    ],
)
def test_what_a_step_makes_something_of_has_a_name(name: str, of: str) -> None:
    assert made_of(name) == of

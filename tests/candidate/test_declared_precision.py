"""Which dtypes a rank may report, by the settings of its case."""

from __future__ import annotations

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate.compare import declared
from validation.run.options import parsed

FACTS = {
    "dtypes": {"layers.1.moe.router.logits": "float32", "layers.1.moe.router.scores": "float32", "layers.1.output": "bfloat16"}
}


def test_a_router_in_fp64_reports_fp64() -> None:
    """What is not the router's stays as it was declared."""
    (case,) = parsed(["--layouts", "single+moe_router_dtype=fp64", "--precision", "bf16"]).cases
    assert declared(case, FACTS)["dtypes"] == {**FACTS["dtypes"], "layers.1.moe.router.logits": "float64"}
    (plain,) = parsed(["--layouts", "single", "--precision", "bf16"]).cases
    assert declared(plain, FACTS) == FACTS
    assert declared(case, {}) == {}

"""Sparse attention: which releases of megatron-core compute it, and which numbers a model without it has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.reference.published_families import CONFIGS
from validation.case.case import Case
from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.layout import Layout
from validation.case.model import INDEXER
from validation.case.preset import TINY
from validation.case.published import from_hf_config
from validation.case.sparse import too_old
from validation.run import prepare

SPARSE = replace(TINY.model, index_topk=8, index_n_heads=4, index_head_dim=32)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.15.3", "has no sparse attention"),
        ("0.16.1", "rotates other elements"),
        ("0.18.2", "rotates other elements"),
        ("0.19.2", None),
        ("0.20.0rc0", None),
        ("absent", None),
    ],
)
def test_releases_that_compute_it_otherwise_are_refused(
    version: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason. Other models are compared with them."""
    monkeypatch.setattr(prepare, "version", lambda name: version)
    case = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 1, 4, 2, 48)
    prepare._refuse_what_releases_lack([case])
    found = too_old(version)
    assert (found is None) == (said is None)
    if found is None:
        prepare._refuse_what_releases_lack([replace(case, model=SPARSE)])
        return
    assert str(said) in found
    with pytest.raises(EnvironmentMissing, match=r"0\.19 and later compute"):
        prepare._refuse_what_releases_lack([replace(case, model=SPARSE)])


def test_other_models_say_nothing_of_an_indexer() -> None:
    """Their references keep their keys."""
    assert not set(INDEXER) & set(TINY.model.as_dict())
    assert set(INDEXER) <= set(SPARSE.as_dict())


@pytest.mark.parametrize(("name", "rotates"), [("deepseek_v32", False), ("glm_moe_dsa", True)])
def test_published_models_have_their_indexer(name: str, rotates: bool) -> None:
    model = from_hf_config(CONFIGS[name], "here")
    assert (model.index_topk, model.index_n_heads, model.index_head_dim, model.indexer_rope_interleave) == (5, 4, 16, rotates)


@pytest.mark.parametrize(
    "shared",
    [{"index_topk_freq": 4}, {"index_topk_pattern": "FSFS"}, {"indexer_types": ["full", "shared", "full"]}],
    ids=["frequency", "pattern", "types"],
)
def test_layers_that_take_the_keys_of_another_are_refused(shared: dict[str, object]) -> None:
    assert from_hf_config({**CONFIGS["glm_moe_dsa"], "index_topk_freq": 1, "indexer_types": ["full"] * 3}, "here").sparse
    with pytest.raises(UsageError, match=f"{next(iter(shared))} in config.json .* another layer's"):
        from_hf_config({**CONFIGS["glm_moe_dsa"], **shared}, "here")


@pytest.mark.parametrize("value", [None, 0, False])
def test_an_indexer_that_another_family_switches_off_is_none(value: object) -> None:
    """Transformers does not read the key there."""
    assert not from_hf_config({**CONFIGS["deepseek_v3"], "index_topk": value}, "here").sparse

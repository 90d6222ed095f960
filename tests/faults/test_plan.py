"""What is planted beside the cases of a run: one fault of each kind, where there is what it needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.table import Row, rows
from validation.case import preflight
from validation.case.case import Case
from validation.case.layout import Layout
from validation.checks.counted import planted as counted
from validation.checks.order import RUN, place
from validation.faults import catalogue
from validation.faults.plan import PLANTED, Plan, plan, smaller
from validation.run.options import parsed


def planned(*words: str) -> Plan:
    """The plan of the command `run WORDS`."""
    return plan(cases(*words))


def cases(*words: str) -> tuple[Case, ...]:
    """The cases of that command."""
    return parsed(words).cases


def planted(found: Plan) -> dict[str, str]:
    """Kind -> layout."""
    return {plant.kind: plant.case.layout.name for plant in found.plants}


GROUPS = ("attention scale", "rope", "router bias", "expert order", "lost reduction", "lost gradient reduction", "small error")
OF_SPARSE = ("key choice",)
OF_LIVES = ("lost moments",)
OF_INFERENCE = ("decode position", "stale weights", "shared block")
ON_ONE_RANK = (*GROUPS[:4], GROUPS[6])


def test_every_kind_is_planted_with_faults_of_the_catalogue() -> None:
    assert tuple(PLANTED) == GROUPS[:2] + OF_SPARSE + GROUPS[2:] + OF_LIVES + OF_INFERENCE
    assert {name for faults in PLANTED.values() for name, _ in faults} <= set(catalogue.ids())


def test_one_of_each_group_is_planted_in_the_smallest_layout_that_has_it() -> None:
    found = planned("--layouts", "single,tp4,tp2pp2,ep2,cp2")
    assert planted(found) == {**dict.fromkeys(GROUPS, "single"), GROUPS[4]: "tp2", GROUPS[5]: "tp2"}
    assert found.left_out == ()


@pytest.mark.parametrize(("layout", "where"), [("ep2", "dp2"), ("dp4", "dp4"), ("cp2", "cp2"), ("pp2ep2", "dp2")])
def test_without_tensor_parallel_ranks_others_lose_gradients(layout: str, where: str) -> None:
    found = planned("--layouts", layout)
    assert planted(found) == {**dict.fromkeys(ON_ONE_RANK, "single"), GROUPS[5]: where}
    assert found.left_out == ((GROUPS[4], "no layout of this run has tensor-parallel ranks"),)


@pytest.mark.parametrize("layout", ["single", "pp2"])
def test_what_one_rank_has_not_is_left_out_with_the_reason(layout: str) -> None:
    found = planned("--layouts", layout)
    assert planted(found) == dict.fromkeys(ON_ONE_RANK, "single")
    assert found.left_out == (
        (GROUPS[4], "no layout of this run has tensor-parallel ranks"),
        (GROUPS[5], "no layout of this run has ranks that sum gradients"),
    )


def test_a_run_that_resumes_loses_moments() -> None:
    """In two steps of a small case, whatever the run's own life is; below fp64 the steps are small."""
    found = planned("--layouts", "tp2+step3-resume-pp2-step,single+step-evaluate-step")
    assert planted(found)[OF_LIVES[0]] == "single"
    assert found.plants[-1].case.training.words == ("step-resume-step",)
    lower = planned("--layouts", "single+step-resume-step", "--precision", "bf16")
    assert lower.plants[-1].case.training.words == ("step-resume-step", "optimizer.lr=0.001")
    assert OF_LIVES[0] not in planted(planned("--layouts", "single+step-evaluate-step"))


def test_a_run_that_infers_has_defects_of_inference() -> None:
    """In small cases with its own context, and none of training, whose checks it does not make."""
    static = planned("--layouts", "tp2+static,pp2+static")
    assert planted(static) == {"decode position": "single", "stale weights": "single"}
    assert {plant.case.training.words for plant in static.plants} == {("static",)}
    assert (static.plants[0].case.batch_size, static.plants[0].case.seq_length) == (2, 16)
    requests = planned("--layouts", "single+dynamic")
    assert [name for _, name in counted(cases("--layouts", "single+static"))] == [
        "Planted defect seen: decode position",
        "Planted defect seen: stale weights",
    ]
    assert planted(requests) == {"decode position": "single", "shared block": "single"}
    (case,) = cases("--layouts", "single+dynamic")
    assert {plant.case.seq_length for plant in requests.plants} == {case.seq_length}
    assert planted(planned("--layouts", "single,single+static")).keys() == {*ON_ONE_RANK, *OF_INFERENCE[:2]}
    for plant in (*static.plants, *requests.plants):
        assert place(plant.case, plant.check) != RUN
        preflight.check(plant.case, max_ranks=1, gpus=0, memory=None)


def test_a_model_without_experts_has_none_to_plant_in() -> None:
    found = planned("--layouts", "tp2", "--set", "first_k_dense_replace=4")
    assert planted(found).keys() == {"attention scale", "rope", "lost reduction", "lost gradient reduction", "small error"}
    assert found.left_out == (("router bias", "the model has no experts"), ("expert order", "the model has no experts"))


def test_a_model_without_a_router_s_bias_has_none_to_shift() -> None:
    """DeepSeek-V2's; everything else is planted."""
    found = planned("--layouts", "tp2", "--set", "topk_method=greedy")
    assert found.left_out == (("router bias", "the model has no routers with a bias"),)


def test_a_model_with_sparse_attention_has_another_choice_of_keys() -> None:
    """Instead of the defects of attention to all keys, which are said."""
    sparse = ("--set", "index_topk=8", "--set", "index_n_heads=4", "--set", "index_head_dim=48")
    found = planned("--layouts", "single", *sparse)
    assert planted(found) == dict.fromkeys((*OF_SPARSE, *GROUPS[2:4], GROUPS[6]), "single")
    assert [kind for kind, _ in found.left_out] == [*GROUPS[:2], *GROUPS[4:6]]
    assert {plant.kind: plant.check for plant in found.plants}["key choice"] == "layers.0.indexer.query"


def test_a_defect_that_a_known_bug_would_hide_is_planted_where_the_bug_is_taken_out() -> None:
    """In the bug's case what shows the defect may fail in any case: it would prove nothing."""
    found = planned("--layouts", "tp2", "--implementation", "local-stock")
    assert found.left_out == ()
    cases_of = {plant.kind: plant.case for plant in found.plants}
    assert cases_of[GROUPS[5]].mended == ("shared-rope-key-not-reduced",)
    assert cases_of[GROUPS[0]].mended == ()  # on one rank there is no such bug
    assert {plant.case.mended for plant in planned("--layouts", "tp2").plants} == {()}


def test_planted_cases_are_small_and_otherwise_those_of_the_run() -> None:
    """One layer of each kind, no steps, no MTP; the same precision, implementation, transport and seed."""
    words = ("--layouts", "tp2+mtp", "--precision", "fp32", "--implementation", "some.where:spec", "--seed", "7")
    (case,) = cases(*words)
    for plant in planned(*words).plants:
        small = plant.case
        assert (small.model.dense_layers, small.model.moe_layers, small.model.mtp_layers) == ((0,), (1,), ())
        assert (small.batch_size, small.seq_length, small.training.steps) == (2, 16, 0)
        for word in ("preset", "precision", "implementation", "transport", "seed"):
            assert getattr(small, word) == getattr(case, word)


@pytest.mark.parametrize(
    ("dense", "layers", "kept", "dense_kept"),
    [
        (1, (), (0, 1), 1),
        (3, (), (0, 3), 1),
        (2, (1, 5, 6, 9), (1, 6), 1),
        (0, (7, 8, 9, 11), (7, 8), 0),
        (4, (), (0, 1), 2),
    ],
)
def test_of_a_checkpoint_the_first_layer_of_each_kind_is_taken(
    dense: int, layers: tuple[int, ...], kept: tuple[int, ...], dense_kept: int
) -> None:
    """In the folder's own numbering."""
    (case,) = cases()
    of_folder = replace(case, model=replace(case.model, first_k_dense_replace=dense), hf_model_path="DIR", layers=layers)
    small = smaller(of_folder, Layout())
    assert small.layers == kept
    assert (small.model.num_hidden_layers, small.model.first_k_dense_replace) == (2, dense_kept)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.session)
def test_what_is_planted_can_run_and_must_fail_at_a_check_that_is_there(row: Row) -> None:
    """For every session of the table."""
    words = row.arguments()[1:]
    found = planned(*words)
    contexts = {case.training.inference for case in cases(*words)}
    sparse = any(case.model.sparse for case in cases(*words))
    count = len(GROUPS) + sparse + ("-resume" in " ".join(row.layouts)) * len(OF_LIVES) if "none" in contexts else 1
    assert len(found.plants) + len(found.left_out) == count + len(contexts - {"none"})
    assert {f"Planted defect seen: {plant.kind}" for plant in found.plants} == {name for _, name in counted(cases(*words))}
    for plant in found.plants:
        most = max(case.layout.ranks for case in cases(*words))
        preflight.check(plant.case, max_ranks=most, gpus=most, memory=None)
        assert place(plant.case, plant.check) != RUN

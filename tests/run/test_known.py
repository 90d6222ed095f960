"""The table of known upstream bugs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.version import InvalidVersion

from validation.case.case import DEFAULT_SEED, Case
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.preset import TINY
from validation.case.training import Training
from validation.machine import ABSENT
from validation.run import known
from validation.run.known import Known, known_bugs, mended, refusal, table

ROOT = Path(__file__).parents[2]


def case(layout: str, implementation: str = "local", model: Model = TINY.model) -> Case:
    return Case("tiny", model, Layout.parse(layout), "fp64", implementation, "gloo", DEFAULT_SEED, 4, 2, 48)


@pytest.mark.parametrize("entry", table(), ids=lambda entry: entry.id)
def test_every_entry_has_a_page_and_a_link(entry: Known) -> None:
    """A failure is excused only by something a reader can look up."""
    assert entry.link.startswith("https://github.com/")
    assert (ROOT / entry.finding).is_file()
    assert entry.checks or entry.spoils or entry.instead


@pytest.mark.parametrize(
    ("layout", "implementation", "bugs"),
    [
        ("single", "local", []),
        ("tp2", "local", []),
        ("tp2etp2", "local", []),
        ("tp2ep2", "local", []),
        ("tp2etp1", "local", ["expert-gradients-not-reduced"]),
        ("tp2", "local-stock", ["shared-rope-key-not-reduced"]),
        ("pp2", "local-stock", []),
        ("etp2", "local", ["expert-gradients-not-reduced"]),
        ("ep2etp2", "local", []),
        ("tp2nosp", "local", ["latents-without-sequence-parallelism"]),
    ],
)
def test_an_entry_applies_where_its_bug_shows(layout: str, implementation: str, bugs: list[str]) -> None:
    """And nowhere else, or it would hide others."""
    assert [bug.id for bug in known_bugs(case(layout, implementation), "0.16.1")] == bugs


@pytest.mark.parametrize(
    ("layout", "tied", "mtp", "shows"),
    [
        ("pp2", True, 1, True),
        ("pp2", True, 0, False),
        ("pp2", False, 1, False),
        ("tp2", True, 1, False),
        ("pp2+pipeline_model_parallel_layout=Ett|ttmL", True, 1, True),
        ("pp2+pipeline_model_parallel_layout=Ettttm|L", True, 1, False),
    ],
)
def test_an_entry_may_ask_for_a_kind_of_model(layout: str, tied: bool, mtp: int, shows: bool) -> None:
    """The unused output weight is there with tied embeddings, an MTP layer and pipeline stages together."""
    model = replace(TINY.model, tie_word_embeddings=tied, num_nextn_predict_layers=mtp)
    degrees, _, word = layout.partition("+")
    having = case(degrees, model=model)
    having = replace(having, training=having.training.with_word(word)) if word else having
    assert ("tied-output-weight-unused" in [bug.id for bug in known_bugs(having, "0.16.1")]) is shows


def test_an_entry_ends_with_the_version_that_mends_it() -> None:
    """A newer megatron-core is not excused by an older one's bug."""
    assert known_bugs(case("tp2etp1"), "99.0") == ()


@pytest.mark.parametrize(
    ("layout", "implementation", "bug", "last", "beyond"),
    [
        ("tp2etp1", "local", "expert-gradients-not-reduced", "0.18.2", "0.19.0"),
        ("tp2", "local-stock", "shared-rope-key-not-reduced", "0.19.2", "0.20.0"),
        ("tp2nosp", "local", "latents-without-sequence-parallelism", "0.19.2", "0.20.0"),
    ],
)
def test_a_bug_is_known_up_to_the_last_release_that_was_run_with_it(
    layout: str, implementation: str, bug: str, last: str, beyond: str
) -> None:
    """A mended bug that comes back is a failure."""
    shown = case(layout, implementation)
    for version in ("0.16.1", "0.17.1", "0.18.2", last):
        assert [entry.id for entry in known_bugs(shown, version)] == [bug]
    assert known_bugs(shown, beyond) == ()


@pytest.mark.parametrize(
    ("version", "bugs"),
    [("0.12.3", ["yarn-softmax-scale"]), ("0.13.1", ["yarn-softmax-scale"]), ("0.14.0", []), ("0.16.1", []), ("0.17.0rc0", [])],
)
def test_an_entry_goes_by_the_version_that_runs(version: str, bugs: list[str]) -> None:
    assert [bug.id for bug in known_bugs(case("single"), version)] == bugs


def test_an_entry_may_ask_for_numbers_of_the_model() -> None:
    """Where yarn's two scales are equal, it does not matter which of them is taken."""
    equal = replace(case("single"), model=TINY.model.with_numbers({"mscale_all_dim": "1.0"}))
    assert known_bugs(equal, "0.13.1") == ()


@pytest.mark.parametrize(
    ("rms_norm_eps", "precision", "implementation", "shows", "must"),
    [
        (1e-6, "fp64", "local", False, False),
        (1e-5, "fp64", "local", True, True),
        (1e-5, "fp64", "local-stock", True, True),
        (1e-5, "fp32", "te-fused", True, False),
        (1e-5, "bf16", "te", True, False),
        (1e-5, "fp64", "own.spec:layers", True, False),
    ],
)
def test_an_implementation_may_have_a_bug_and_need_not(
    rms_norm_eps: float, precision: str, implementation: str, shows: bool, must: bool
) -> None:
    """A user's own spec may have latent norms with transformers' epsilon: then its check passes, and that is no failure."""
    model = replace(TINY.model, rms_norm_eps=rms_norm_eps)
    of = replace(case("single", implementation, model), precision=precision)
    found = [bug for bug in known_bugs(of, "0.16.1") if bug.id == "latent-norm-epsilon"]
    assert bool(found) is shows
    assert any(bug.must_fail(of, "latent_epsilon") for bug in found) is must
    assert not any(bug.excuses(of, "layers.0.attention.value") for bug in found)


def test_a_value_that_every_run_is_given_needs_no_second_run() -> None:
    """The ranks have the reference's already; beside another bug only that one is taken out."""
    model = replace(TINY.model, rms_norm_eps=1e-5)
    assert mended(case("single", model=model)) == case("single", model=model)
    assert mended(case("tp2", "local-stock", model)).mended == ("shared-rope-key-not-reduced",)


def test_only_the_named_checks_are_excused() -> None:
    """The experts' gradients, not the router's beside them."""
    shown = case("tp2etp1")
    bug = known_bugs(shown, "0.16.1")[0]
    assert bug.must_fail(shown, "gradients/model.layers.1.mlp.experts.up_proj.weight")
    assert not bug.must_fail(shown, "gradients/model.layers.1.mlp.gate.weight")
    assert not bug.excuses(shown, "gradients/model.layers.1.mlp.gate.weight")
    assert bug.excuses(shown, "steps/1/parameters/lm_head.weight")


KEPT = [
    "gradients/lm_head.weight",
    "gradients/model.layers.3.mlp.experts.up_proj.weight",
    "probe_gradients/layers.3.moe.output",
]


@pytest.mark.parametrize(
    ("bug", "words", "also"),
    [
        (
            "shared-rope-key-not-reduced",
            {"implementation": "local-stock"},
            "gradients/model.layers.3.self_attn.q_b_proj.weight",
        ),
        (
            "balancing-losses-per-token",
            {"training": Training(balancing="aux_loss")},
            "probe_gradients/layers.3.moe.router.weights",
        ),
    ],
)
def test_a_bug_excuses_nothing_that_lies_behind_it(bug: str, words: dict[str, Any], also: str) -> None:
    """A gradient that has not come to it yet. Where an MTP layer follows, all have."""
    shown = replace(case("tp2"), **words)
    (entry,) = (one for one in table() if one.id == bug)
    assert entry.applies(shown, "0.16.1")
    assert not [check for check in (*KEPT, also) if entry.excuses(shown, check)]
    assert entry.excuses(shown, KEPT[1].replace("3", "2"))
    assert all(entry.excuses(shown, check) for check in ("gradients/model.layers.3.input_layernorm.weight", "steps/1/lm_head"))
    longer = replace(shown, model=replace(shown.model, num_nextn_predict_layers=1))
    assert all(entry.excuses(longer, check) for check in KEPT)


@pytest.mark.parametrize("hides", [{"isolated": True}, {"data": "batch.jsonl", "data_digest": "1"}], ids=str)
def test_an_isolated_module_and_own_tokens_may_hide_a_bug(hides: dict[str, Any]) -> None:
    """The reference's gradient goes on behind it, and tokens may all count in the loss, or be of one document."""
    shown = replace(case("tp2"), implementation="local-stock")
    (entry,) = (one for one in table() if one.id == "shared-rope-key-not-reduced")
    weight = "gradients/model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
    assert entry.must_fail(shown, weight)
    assert not entry.must_fail(replace(shown, **hides), weight)
    assert entry.excuses(replace(shown, **hides), weight)


def test_loads_that_move_no_bias_show_no_bug() -> None:
    filled = {"model.moe_expert_capacity_factor": 4.0, "model.moe_pad_expert_input_to_capacity": True}
    for rate, shows in ((2**-8, True), (0.0, False)):
        training = Training(steps=2).with_settings({**filled, "model.moe_router_bias_update_rate": rate})
        found = known_bugs(replace(case("single"), training=training), "0.16.1")
        assert ("loads-counted-after-capacity" in [bug.id for bug in found]) is shows


def test_nothing_is_known_of_a_megatron_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks are listed on machines that have none; packaging before 26 raises where it is given no version."""

    def contains(*asked: object, **how: object) -> bool:
        raise InvalidVersion

    monkeypatch.setattr("validation.run.known.SpecifierSet.contains", contains)
    assert known_bugs(case("ep2etp2"), "absent") == ()


@pytest.mark.parametrize(
    ("installed", "core", "there"),
    [
        ("2.12.0", "0.16.1", False),
        ("2.13.0", "0.16.1", True),
        ("2.20.2", "0.18.2", True),
        ("2.20.2", "0.19.2", False),
        (ABSENT, "0.16.1", False),
    ],
)
def test_a_bug_of_transformer_engine_is_there_in_its_versions(
    installed: str, core: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a megatron-core that has it, too."""
    monkeypatch.setattr(known, "version_of", lambda package: installed)
    of = case("tp2", "te")
    of = replace(of, precision="bf16", training=replace(of.training, steps=2))
    assert ("norm-misses-experts" in {bug.id for bug in table() if bug.applies(of, core)}) == there


SWITCH = {"model.overlap_dispatch_backward_with_experts_wgrad": True}


@pytest.mark.parametrize(
    ("given", "core", "there"),
    [
        (SWITCH, "0.19.2", True),
        (SWITCH, "0.17.1", False),
        (SWITCH | {"model.gradient_accumulation_fusion": True}, "0.19.2", False),
        (SWITCH | {"ddp.delay_wgrad_compute": True}, "0.19.2", False),
        ({}, "0.19.2", False),
    ],
)
def test_experts_gradients_are_unread_only_without_fused_accumulation(given: dict[str, bool], core: str, there: bool) -> None:
    """Of the experts alone, before any step, and without a limit, for they are memory that nobody has written."""
    of = case("ep2", "te")
    of = replace(of, precision="bf16", training=of.training.with_settings(given))
    found = [bug for bug in known_bugs(of, core) if bug.id == "expert-gradients-read-too-early"]
    assert bool(found) == there
    for bug in found:
        assert bug.unlimited(of)
        excused = [
            bug.excuses(of, f"gradients/model.layers.1.{name}") for name in ("mlp.experts.up_proj.weight", "mlp.gate.weight")
        ]
        assert excused == [True, False]


def test_a_bug_of_the_layout_that_a_run_resumes_in_is_excused_from_then_on() -> None:
    """Data-parallel ranks count no projection twice; the tensor-parallel ones that go on with their checkpoint do."""
    of = case("dp2", "te")
    of = replace(of, precision="bf16", training=replace(of.training, life="step-resume-tp2-step", steps=2))
    (bug,) = (bug for bug in known_bugs(of, "0.16.1") if bug.id == "norm-counts-duplicated-projections")
    assert [bug.excuses(of, f"steps/{step}/gradient_norm") for step in (1, 2)] == [False, True]
    back = replace(of, layout=Layout.parse("tp2"), training=replace(of.training, life="step-resume-dp2-step"))
    assert [bug.excuses(back, f"steps/{step}/gradient_norm") for step in (1, 2)] == [True, True]


@pytest.mark.parametrize(
    ("implementation", "precision", "layout", "shape", "release", "expected"),
    [
        ("te", "bf16", "single", "documents", "0.16.1", True),
        ("te", "bf16", "tp2", "left-padded", "0.19.2", True),
        ("te", "bf16", "single", "padded", "0.16.1", False),  # what is behind the tokens is hidden by a causal mask, too
        ("te", "bf16", "single", "packed", "0.16.1", False),
        ("te", "bf16", "single", "full", "0.16.1", False),
        ("te", "bf16", "cp2", "documents", "0.16.1", False),
        ("te", "fp32", "single", "documents", "0.16.1", False),
        ("te-flash", "bf16", "single", "documents", "0.16.1", False),
        ("te-unfused", "bf16", "single", "documents", "0.16.1", False),
        ("local", "bf16", "single", "documents", "0.16.1", False),
        ("te", "bf16", "single", "documents", "0.20.0", False),
    ],
)
def test_an_ignored_mask_is_excused_where_it_was_seen(
    implementation: str, precision: str, layout: str, shape: str, release: str, expected: bool
) -> None:
    """A second run computes with another kernel, so that nobody is excused who asks for one of them."""
    of = case(layout, implementation)
    of = replace(of, precision=precision, training=replace(of.training, data_shape=shape))
    found = {bug.id: bug for bug in known_bugs(of, release)}
    assert ("mask-ignored-by-transformer-engine" in found) == expected
    if expected:
        bug = found["mask-ignored-by-transformer-engine"]
        assert bug.excuses(of, "layers.0.attention.core")
        assert not bug.excuses(of, "layers.0.attention.query")


def test_only_the_steps_in_a_bug_s_layout_must_show_it() -> None:
    of = case("tp2")
    of = replace(of, training=replace(of.training, life="step-resume-tp2etp1-step", steps=2))
    bug = known_bugs(case("tp2etp1"), "0.16.1")[0]
    weight = "model.layers.1.mlp.experts.up_proj.weight"
    assert bug in known_bugs(of, "0.16.1")
    assert not bug.must_fail(of, f"gradients/{weight}")
    assert not bug.excuses(of, f"gradients/{weight}")
    assert not bug.excuses(of, "steps/1/parameters/lm_head.weight")
    assert bug.excuses(of, "steps/2/parameters/lm_head.weight")


@pytest.mark.parametrize(
    ("layouts", "refused"),
    [
        ("tp2 ep2", (True, True)),
        ("ep2 dp2", (True, True)),
        ("tp2 tp2etp1", (False, True)),
        ("dp2 etp2", (False, True)),
        ("tp2etp1 pp2", (False, True)),
        ("ep2 tp2etp1", (True, False)),
        ("ep2 tp2etp1 ep2", (True, False)),
        ("etp2 tp2etp1", (False, False)),
        ("ep2 ep2etp2", (False, False)),
        ("tp2 cp2 pp2", (False, False)),
    ],
)
def test_experts_go_on_with_an_optimizer_of_their_own_or_without_one(layouts: str, refused: tuple[bool, bool]) -> None:
    """As each pair of layouts of two ranks went with 0.16.1, 0.17.1, 0.18.2 and 0.19.2, before it was refused.

    A model without experts goes on in any layout.
    """
    first, *further = layouts.split()
    of = replace(case(first), training=Training(life="-".join(["step", *(f"resume-{one}-step" for one in further)]), steps=2))
    for versions, wanted in zip((("0.16.1", "0.17.1", "0.18.2"), ("0.19.2", "0.20.0rc0")), refused, strict=True):
        said = [refusal(of, version) for version in versions]
        assert [bool(one) for one in said] == [wanted] * len(versions)
        assert all("own if ep is above 1" in str(one) and "; resume with ep above 1 " in str(one) for one in said if one)
    dense = replace(of, model=replace(of.model, first_k_dense_replace=of.model.num_hidden_layers))
    assert refusal(dense, "0.19.2") is None

"""Every job before the gate must have succeeded: whatever else GitHub calls its end is red."""

from __future__ import annotations

import json

import pytest

from ci.needs import reasons


def needs(**results: object) -> str:
    """What GitHub writes for `toJSON(needs)`."""
    return json.dumps({job: {"result": result, "outputs": {}} for job, result in results.items()}, indent=2)


def test_jobs_that_succeeded_are_no_reason() -> None:
    assert list(reasons(needs(plan="success", cpu="success"))) == []


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("failure", "job gpu: failed"),
        ("cancelled", "job gpu: was cancelled"),
        ("skipped", "job gpu: was skipped; a required job must run"),
        ("neutral", "job gpu: ended with 'neutral', which is not success"),
        ("", "job gpu: ended with '', which is not success"),
        (None, "job gpu: ended with None, which is not success"),
        (["success"], "job gpu: ended with ['success'], which is not success"),
    ],
)
def test_a_job_that_did_not_succeed_is_a_reason(result: object, said: str) -> None:
    assert list(reasons(needs(plan="success", gpu=result))) == [said]


@pytest.mark.parametrize("text", ["", "{}", "null", "[]", "true", '{"gpu": ', "[" * 100_000], ids=lambda text: text[:10])
def test_a_context_without_a_job_is_a_reason(text: str) -> None:
    (said,) = reasons(text)
    assert said.startswith("needs: names no job")


@pytest.mark.parametrize("text", ['{"gpu": "success"}', '{"gpu": null}', '{"gpu": {}}'])
def test_a_job_without_a_result_is_a_reason(text: str) -> None:
    assert list(reasons(text)) == ["job gpu: ended with None, which is not success"]


def planned(result: str, gpu: object, **outputs: str) -> str:
    """A plan with its outputs, and the job `gpu` skipped."""
    plan = {"result": result, "outputs": {**outputs, **({"gpu": gpu} if gpu is not None else {})}}
    return json.dumps({"plan": plan, "gpu": {"result": "skipped", "outputs": {}}})


def test_a_job_for_which_the_plan_has_chosen_nothing_may_be_skipped() -> None:
    """GitHub cannot start a matrix of none; the manifest, made of the same choice, asks nothing of it."""
    assert list(reasons(planned("success", "[]"))) == []


@pytest.mark.parametrize("gpu", [None, "", '[{"session": "gpu_tp2"}]', [], "[ ]", False])
def test_no_other_word_of_the_plan_lets_a_job_be_skipped(gpu: object) -> None:
    assert len(list(reasons(planned("success", gpu)))) == 1


@pytest.mark.parametrize("result", ["failure", "cancelled", "skipped"])
def test_a_plan_that_did_not_succeed_lets_nothing_be_skipped(result: str) -> None:
    assert len(list(reasons(planned(result, "[]")))) == 2


def test_nothing_chosen_for_one_job_lets_no_other_be_skipped() -> None:
    assert len(list(reasons(planned("success", "[1]", cpu="[]")))) == 1


@pytest.mark.parametrize("result", ["failure", "cancelled"])
def test_a_job_without_work_may_be_skipped_and_nothing_else(result: str) -> None:
    text = json.dumps({"plan": {"result": "success", "outputs": {"gpu": "[]"}}, "gpu": {"result": result}})
    assert len(list(reasons(text))) == 1


def test_what_a_context_must_be_is_said_word_by_word() -> None:
    """With the expression to copy."""
    assert list(reasons("{}")) == [
        "needs: names no job; give it ${{ toJSON(needs) }}, and the gate's job `needs:` every job before it"
    ]

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
        ("skipped", "job gpu: was skipped, and what does not run proves nothing"),
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

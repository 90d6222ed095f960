"""The workflows, executed: for each thing that may happen on GitHub the gate is what it must be.

GitHub's own parser and evaluator decide what runs (runner.mjs); the pipeline's commands are the real ones, on results that are
made up by the manifest. `python -m tests.workflows` prints the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.workflows.scenarios import FROM_A_FORK as FORK
from tests.workflows.scenarios import SCENARIOS, Played

All = Mapping[str, Played]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_gate_is_what_it_must_be(played: All, name: str) -> None:
    assert played[name].gate == SCENARIOS[name].gate
    if SCENARIOS[name].says:
        assert SCENARIOS[name].says in played[name].output("gate", "Judge")


def test_the_required_check_is_never_skipped_which_github_would_take_for_passed(played: All) -> None:
    ended = {name: result.gate for name, result in played.items() if result.triggered and name != "careless"}
    assert set(ended.values()) == {"success", "failure", "failure or success"}, ended


def test_the_runner_sees_what_a_careless_gate_would_do(played: All) -> None:
    """Without always() a red leg leaves the required check skipped."""
    assert played["careless"].gate == "skipped"


def machines(result: Played) -> set[str]:
    """Every label that a leg has asked for."""
    return {label for leg in result.legs for label in ([leg["runner"]] if isinstance(leg["runner"], str) else leg["runner"])}


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.payload.get("pull_request") == FORK])
def test_a_fork_reaches_no_machine_of_ours_without_a_maintainer(played: All, name: str) -> None:
    """Whatever its transport, and whatever its own plan says."""
    permitted = played[name].jobs["plumbline / permit"] == "success"
    assert (machines(played[name]) == {"ubuntu-24.04"}) is not permitted
    assert permitted is (SCENARIOS[name].approved != () and SCENARIOS[name].api != "no-reviewers")


def test_on_its_own_cpus_a_team_waits_for_a_maintainer_in_forks_alone(played: All) -> None:
    assert machines(played["fork, own CPUs, approved"]) == {"ubuntu-24.04", "gpus-0"}
    assert [leg["leg"] for leg in played["fork, own CPUs"].legs] == ["plumbline / plan", "plumbline / gate"]


def test_an_approved_fork_runs_what_everybody_runs(played: All) -> None:
    assert [
        leg["leg"] for leg in played["fork approved"].legs if leg["leg"] != "plumbline / a maintainer permits our machines"
    ] == [leg["leg"] for leg in played["green"].legs]


def test_an_environment_that_asks_nobody_is_said_to_be_one(played: All) -> None:
    said = played["fork unprotected"].output("a maintainer permits our machines", "See that somebody had to approve")
    assert "red: environment gpu-forks asks nobody" in said


def test_our_machines_are_cleaned_before_and_after_whatever_happens(played: All) -> None:
    for name in ("green", "red", "cancelled"):
        gpu = [leg for leg in played[name].legs if "self-hosted" in leg["runner"]]
        assert len(gpu) == 10
        for leg in gpu:
            steps = leg["steps"]
            assert [steps[0]["name"], steps[0]["result"]] == ["Clean before", "success"]
            assert [steps[-1]["name"], steps[-1]["result"]] == ["Clean after", "success"]


def test_results_are_kept_of_what_failed_or_was_cancelled(played: All) -> None:
    for name, session in (("red", "gpu_tp2"), ("cancelled", "gpu_pp2")):
        steps = {step["name"]: step["result"] for step in played[name].leg(session)["steps"]}
        assert steps["Run the session"] == {"red": "failure", "cancelled": "cancelled"}[name]
        assert "Keep the results" in steps


def test_the_plan_says_why_each_session_runs(played: All) -> None:
    assert (
        "| gpu_tp2 | self-hosted, linux, gpus-2 | validation/candidate/modules.py changed |"
        in played["green"].leg("plan")["summary"]
    )
    left_out = played["documentation"].leg("plan")["summary"]
    assert "- gpu_tp2: only documentation changed (README.md and 1 more)" in left_out
    assert "| parity | ubuntu-24.04 | runs whatever changes |" in left_out


def test_the_summary_is_written_whatever_the_verdict_is(played: All) -> None:
    for name in ("green", "red", "lost"):
        assert "Plumbline" in played[name].leg("gate")["summary"]


def test_a_red_summary_leads_to_the_report_and_to_what_to_do(played: All) -> None:
    for name in ("red", "green"):
        summary = played[name].leg("gate")["summary"]
        assert "https://github.example/plumbline/plumbline/actions/runs/99#artifacts" in summary
        page = f"https://github.example/plumbline/plumbline/blob/{SCENARIOS[name].sha}/docs/first-red-check.md"
        assert (page in summary) is (name == "red")


def test_drift_is_judged_against_our_own_last_green_run_and_no_forks(played: All) -> None:
    """A fork's branch may be called main, and is newer in the list."""
    assert "===== Drift: GREEN" in played["same"].output("gate", "Compare with the baseline")
    assert "it has grown more than is allowed" in played["drifted"].output("gate", "Compare with the baseline")
    assert "there is no green run of nightly.yml on main" in played["green"].leg("gate")["summary"]


@pytest.mark.parametrize(
    ("name", "gate", "summary", "page"),
    [
        ("same", "success", "GREEN", "pass"),
        ("drifted", "failure", "RED", "fail"),
        ("accepted", "success", "GREEN", "pass"),
    ],
)
def test_gate_summary_annotations_and_page_agree_about_drift(
    played: All, name: str, gate: str, summary: str, page: str
) -> None:
    leg = played[name].leg("gate")
    assert played[name].gate == gate
    assert re.findall(r"## Plumbline: \S+ (\w+)", leg["summary"]) == [summary]
    assert ("::error" in played[name].output("gate", "Say what came of it")) is (gate == "failure")
    assert f"index.html: {page}, " in played[name].page


def test_accepted_drift_is_told_with_its_reason(played: All) -> None:
    assert "accepted: " in played["accepted"].output("gate", "Compare with the baseline")
    assert "- accepted: labelled accept-drift" in played["accepted"].leg("gate")["summary"]


@pytest.mark.parametrize("name", ["session removed", "session removed, nightly"])
def test_a_session_that_is_gone_is_red_in_the_pull_request_as_in_the_nightly(played: All, name: str) -> None:
    assert "red: session parity_old: gone" in played[name].output("gate", "Compare with the baseline")


def test_a_session_that_is_gone_with_a_reason_is_gone_from_the_next_baseline(played: All) -> None:
    steps = {step["name"]: step for step in played["session removed, by hand"].leg("gate")["steps"]}
    assert "accepted: session parity_old: gone" in steps["Compare with the baseline"]["output"]
    assert steps["Keep the baseline"]["result"] == "success"


def test_a_baseline_that_has_expired_is_made_anew(played: All) -> None:
    steps = {step["name"]: step["result"] for step in played["expired"].leg("gate")["steps"]}
    assert (steps["Fetch the baseline"], steps["Keep the baseline"]) == ("skipped", "success")
    assert "or it has expired" in played["expired"].leg("gate")["summary"]


def test_without_the_baseline_the_summary_tells_all_the_rest(played: All) -> None:
    steps = {step["name"]: step["result"] for step in played["unfetched"].leg("gate")["steps"]}
    assert (steps["Fetch the baseline"], steps["Compare with the baseline"]) == ("failure", "skipped")
    assert steps["Say what came of it"] == "success"
    assert "How near to the limits" in played["unfetched"].leg("gate")["summary"]


def test_only_the_nightly_keeps_a_baseline_and_only_a_green_one(played: All) -> None:
    def kept(name: str) -> str:
        return next(step["result"] for step in played[name].leg("gate")["steps"] if step["name"] == "Keep the baseline")

    assert {name: kept(name) for name in ("nightly", "newest", "green", "queue")} == {
        "nightly": "success",
        "newest": "skipped",
        "green": "skipped",
        "queue": "skipped",
    }


def test_the_gate_says_where_another_plumbline_judges_than_the_workflows_own(played: All) -> None:
    """A pull request writes its caller file: it may name a Plumbline that is green whatever comes."""
    said = f"judged by the Plumbline of plumbline/plumbline at {SCENARIOS['another Plumbline'].sha}, which its caller names"
    assert said in played["another Plumbline"].leg("gate")["summary"]
    steps = [step["name"] for step in played["another Plumbline"].leg("gate")["steps"]]
    assert steps.index("Say whose Plumbline judges") < steps.index("Check out Plumbline")
    for name in ("green", "caller"):
        assert "judged by the Plumbline of" not in played[name].leg("gate")["summary"]


def test_two_calls_of_one_workflow_keep_apart(played: All) -> None:
    """Each gate sees its own results, though the sessions have one name, and each keeps a page and a baseline."""
    gates = {
        leg["leg"]: {step["name"]: step for step in leg["steps"]} for leg in played["two calls"].legs if "gate" in leg["leg"]
    }
    fetched = {name: steps["Fetch the results"]["output"] for name, steps in gates.items()}
    assert fetched == {f"{call} / gate": f"plumbline-{call}.results-cpu_tp2" for call in ("fp64", "bf16")}
    for name, kept in (("Keep the page", "report"), ("Keep the baseline", "baseline")):
        assert {steps[name]["output"] for steps in gates.values()} == {f"plumbline-{call}.{kept}" for call in ("fp64", "bf16")}
    assert {job: result for job, result in played["one of two calls"].jobs.items() if "gate" in job} == {
        "fp64 / gate": "success",
        "bf16 / gate": "failure",
    }


def test_a_recipe_is_planned_run_and_judged_by_its_file(played: All) -> None:
    """The plan, the session and the gate read it in the checkout of the team."""
    plan, session, gate = (played["recipe"].leg(name) for name in ("plan", "cpu_recipe", "gate"))
    assert "| cpu_recipe | ubuntu-24.04 | asked for by the workflow's caller |" in plan["summary"]
    ran = next(step["output"] for step in session["steps"] if step["name"] == "Run the session")
    assert ran.startswith("nox -s cpu_recipe")
    assert "24 equal, 18 not exercised here" in gate["summary"]


def test_a_team_runs_its_own_megatron_at_one_commit(played: All) -> None:
    leg = played["caller"].leg("gpu_tp2")
    assert leg["runner"] == ["self-hosted", "linux", "gpus-2"]
    ran = next(step["output"] for step in leg["steps"] if step["name"] == "Run the session")
    assert ran.startswith("nox -s gpu_tp2 -- --megatron-path ")
    checked_out = next(step["output"] for step in leg["steps"] if step["name"] == "Check out Megatron")
    assert checked_out.startswith("decade")


def test_every_job_of_the_nightly_is_one_of_the_table(played: All) -> None:
    legs = [leg["leg"].removeprefix("plumbline / ") for leg in played["nightly"].legs]
    assert {"faults", "mutants", "versions", "newest", "parity_bf16"} <= set(legs)


def test_what_does_not_concern_us_starts_nothing(played: All) -> None:
    assert not played["another event"].triggered

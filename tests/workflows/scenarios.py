"""What may happen to a run on GitHub, and the runner that plays it: `python -m tests.workflows` prints the table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ci.baseline import ABOUT
from tests.workflows import made
from tests.workflows.server import BASELINE, REMOVED, serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = "plumbline/plumbline"
PULL_REQUEST = {"number": 7, "labels": [], "head": {"repo": {"full_name": OURS}}}
FROM_A_FORK = {**PULL_REQUEST, "head": {"repo": {"full_name": "somebody/plumbline"}}}
CODE = ("validation/candidate/modules.py", "docs/design.md")


@dataclass(frozen=True)
class Scenario:
    """An event, what happens while it runs, and what the gate must make of it.

    `red` are sessions of which a check fails, `nearer` those of which one is much nearer to its limit; `codes` are exit
    codes of sessions that leave what a green run does, and those `of_megatron` have run a team's checkout. `cancelled`
    sessions are ended by somebody, `skipped` jobs by GitHub, `lost` artifacts never arrive, `approved` environments a
    maintainer lets through. `old` are sessions of which a file is of an earlier run, `idle` those in which no setting
    of the recipe had an effect, `unmade` those that leave no results. `others` are artifacts of jobs that are not ours,
    or of GitHub's earlier attempt at this run, red if they are not called green. `left` says that our machines are full
    of an earlier job's results. `inputs` are what somebody fills in who starts it by hand. `edit` puts something else
    into the reusable workflow. `enterprise` is GitHub Enterprise Server: all machines are ours. `api` is what GitHub
    answers (server.py).
    """

    what: str
    gate: str
    says: str = ""
    workflow: str = ".github/workflows/pull-request.yml"
    event: str = "pull_request"
    payload: Mapping[str, Any] = field(default_factory=lambda: {"action": "synchronize", "pull_request": PULL_REQUEST})
    changed: tuple[str, ...] = CODE
    red: tuple[str, ...] = ()
    nearer: tuple[str, ...] = ()
    codes: Mapping[str, int] = field(default_factory=dict)
    cancelled: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()
    of_megatron: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    left: bool = False
    idle: tuple[str, ...] = ()
    unmade: tuple[str, ...] = ()
    sha: str = made.COMMIT
    inputs: Mapping[str, str] = field(default_factory=dict)
    edit: tuple[str, str] = ("", "")
    api: str = "no-baseline"
    enterprise: bool = False


@dataclass(frozen=True)
class Played:
    """What came of it: how every job ended, and every leg with its steps."""

    triggered: bool
    jobs: Mapping[str, str]
    legs: tuple[Mapping[str, Any], ...]

    @property
    def gate(self) -> str:
        """How the required check ended, or all of them where they agree; empty where there is none."""
        ended = {result for job, result in self.jobs.items() if job.endswith(" / gate")}
        return " or ".join(sorted(ended))

    def leg(self, name: str) -> Mapping[str, Any]:
        """The job, or the leg of a matrix, that is shown under this name; that of the first call where there are several."""
        return next(leg for leg in self.legs if leg["leg"].partition(" / ")[2] == name or leg["leg"] == name)

    @property
    def page(self) -> str:
        """What `ci page` has said of its verdict."""
        return self.output("gate", "Draw the page")

    def output(self, leg: str, step: str) -> str:
        """What a step printed."""
        return str(next(one for one in self.leg(leg)["steps"] if one["name"] == step).get("output", ""))


_QUEUE = {"action": "checks_requested", "merge_group": {"base_ref": "refs/heads/main"}}
_FORK = {"action": "opened", "pull_request": FROM_A_FORK}
_LABELLED = {"action": "reopened", "pull_request": {**PULL_REQUEST, "labels": [{"name": "accept-drift"}]}}
_NIGHTLY = ".github/workflows/nightly.yml"
_CALLER = "tests/workflows/caller.yml"
_CPU_CALLER = "tests/workflows/cpu-caller.yml"
_RECIPE_CALLER = "tests/workflows/recipe-caller.yml"
SCENARIOS = {
    "green": Scenario("pull request, all green", "success", "GREEN"),
    "red": Scenario(
        "one leg red", "failure", "1 check fails: Layer 0 Attention Output", red=("gpu_tp2",), codes={"gpu_tp2": 1}
    ),
    "red in silence": Scenario("one leg ends with 0 though a check fails", "failure", "1 check fails", red=("parity",)),
    "cancelled": Scenario("one leg cancelled", "failure", "job self-hosted: was cancelled", cancelled=("gpu_pp2",)),
    "skipped": Scenario("the GPU job skipped", "failure", "job self-hosted: was skipped", skipped=("self-hosted",)),
    "plan": Scenario("the plan skipped", "failure", "job plan: was skipped", skipped=("plan",)),
    "lost": Scenario("an artifact missing", "failure", "results-gpu_ep2", lost=("results-gpu_ep2",)),
    "documentation": Scenario("documentation alone changed", "success", "GREEN", changed=("README.md", "docs/design.md")),
    "fork": Scenario("pull request from a fork", "failure", "job self-hosted: was skipped", payload=_FORK),
    "fork approved": Scenario("fork, a maintainer approves", "success", "GREEN", payload=_FORK, approved=("gpu-forks",)),
    "fork unprotected": Scenario(
        "fork, the environment asks nobody",
        *("failure", "job self-hosted: was skipped"),
        payload=_FORK,
        approved=("gpu-forks",),
        api="no-reviewers",
    ),
    "fork of a team": Scenario(
        "fork of a team's own Megatron", "failure", "job self-hosted: was skipped", workflow=_CALLER, payload=_FORK
    ),
    "fork, own CPUs": Scenario(
        "fork of a team that compares on the CPUs of its own machines",
        *("failure", "job self-hosted: was skipped"),
        workflow=_CPU_CALLER,
        payload=_FORK,
    ),
    "fork, own CPUs, approved": Scenario(
        "the same, a maintainer approves", "success", "GREEN", workflow=_CPU_CALLER, payload=_FORK, approved=("gpu-forks",)
    ),
    "fork, own plan": Scenario(
        "fork whose plan calls our machines hosted",
        *("failure", "job hosted: failed"),
        workflow=_CPU_CALLER,
        payload=_FORK,
        edit=("hosted: ${{ steps.choose.outputs.hosted }}", "hosted: ${{ steps.choose.outputs.self-hosted }}"),
        codes={"cpu_tp2": 1},
    ),
    "same": Scenario("as near to the limits as the base branch", "success", "GREEN", api="baseline"),
    "drifted": Scenario("nearer to a limit than the base branch", "failure", "GREEN", nearer=("parity",), api="baseline"),
    "accepted": Scenario(
        "the same, labelled accept-drift", "success", "GREEN", payload=_LABELLED, nearer=("parity",), api="baseline"
    ),
    "session removed": Scenario("the base branch has a session more", "failure", "GREEN", api="removed"),
    "session removed, accepted": Scenario(
        "the same, labelled accept-drift", "success", "GREEN", payload=_LABELLED, api="removed"
    ),
    "session removed, nightly": Scenario(
        "nightly after it", "failure", "GREEN", workflow=_NIGHTLY, event="schedule", payload={}, api="removed"
    ),
    "session removed, by hand": Scenario(
        "nightly after it, started by hand with a reason",
        *("success", "GREEN"),
        workflow=_NIGHTLY,
        event="workflow_dispatch",
        payload={},
        inputs={"accept-drift": "parity has it all"},
        api="removed",
    ),
    "expired": Scenario(
        "nightly, no baseline is there any more",
        *("success", "GREEN"),
        workflow=_NIGHTLY,
        event="schedule",
        payload={},
        api="expired",
    ),
    "unfetched": Scenario("the baseline is not handed over", "failure", "GREEN", api="baseline", lost=("baseline",)),
    "queue": Scenario("merge queue", "success", "GREEN", event="merge_group", payload=_QUEUE),
    "nightly": Scenario("nightly", "success", "GREEN", workflow=_NIGHTLY, event="schedule", payload={}),
    "newest": Scenario(
        "nightly, the newest release computes something else",
        *("failure", "job hosted: failed"),
        workflow=_NIGHTLY,
        event="schedule",
        payload={},
        codes={"newest": 1},
    ),
    "caller": Scenario(
        "a team's own Megatron",
        *("success", "GREEN"),
        workflow=_CALLER,
        sha=made.MEGATRON,
        of_megatron=("gpu_tp2", "gpu_pp2"),
    ),
    "another Plumbline": Scenario(
        "a pull request calls the workflow of one commit with the Plumbline of another",
        "success",
        "GREEN",
        sha="f00d" + "0" * 36,
    ),
    "not the caller's": Scenario(
        "a team's own, and a session has run the installed one",
        *("failure", "made with the Megatron the installed one"),
        workflow=_CALLER,
        sha=made.MEGATRON,
        of_megatron=("gpu_tp2",),
    ),
    "two calls": Scenario("two calls in one workflow", "success", "GREEN", workflow="tests/workflows/two-callers.yml"),
    "one of two calls": Scenario(
        "two calls, a leg of one red",
        "failure or success",
        workflow="tests/workflows/two-callers.yml",
        red=("bf16.cpu_tp2",),
        codes={"bf16.cpu_tp2": 1},
    ),
    "recipe": Scenario("a team's recipe, of which half must be equal", "success", "GREEN", workflow=_RECIPE_CALLER),
    "recipe, empty pass": Scenario(
        "the same, and every check passes because nothing of it was exercised",
        *("failure", "0 of 42 settings are equal (0.00), and 0.5 is required"),
        workflow=_RECIPE_CALLER,
        idle=("recipe.cpu_recipe",),
    ),
    "recipe, red": Scenario(
        "the same, a check of its stand-in fails",
        *("failure", "1 check fails: Layer 0 Attention Output"),
        workflow=_RECIPE_CALLER,
        red=("recipe.cpu_recipe",),
        codes={"recipe.cpu_recipe": 1},
    ),
    "other jobs": Scenario(
        "other jobs of the workflow have artifacts with names like ours",
        *("success", "GREEN"),
        others=("results-unit", "results-gpu_tp2-extra", "results-", "plumbline-x.results-gpu_tp2"),
    ),
    "run again": Scenario(
        "GitHub runs failed jobs again, and they are green", "success", "GREEN", others=("results-gpu_tp2", "results-parity")
    ),
    "run again, not started": Scenario(
        "a job that GitHub runs again ends before it starts; its first attempt's artifact is there, all green",
        *("failure", "job self-hosted: failed"),
        others=("green results-gpu_tp2",),
        unmade=("gpu_tp2",),
        codes={"gpu_tp2": 3},
    ),
    "machine full of results": Scenario("our machines keep an earlier job's results", "success", "GREEN", left=True),
    "machine never cleaned": Scenario(
        "the same, and the workflow does not clean them",
        *("failure", ""),
        left=True,
        edit=(
            "- name: Clean before\n        if: runner.environment == 'self-hosted'",
            "- name: Clean before\n        if: false",
        ),
    ),
    "partly old": Scenario(
        "a session hands over a file of the run before", "failure", "run the whole session again", old=("parity",)
    ),
    "careless": Scenario(
        "one leg red, and the gate without always()",
        *("skipped", ""),
        codes={"lint": 1},
        edit=("if: ${{ always() }}\n    runs-on", "runs-on"),
    ),
    "another event": Scenario("an issue is opened", "", event="issues", payload={"action": "opened"}),
}


def _on_a_server(what: str, gate: str, says: str = "", **happens: Any) -> Scenario:
    """A team's own Megatron on GitHub Enterprise Server."""
    return replace(
        Scenario(f"GitHub Enterprise Server: {what}", gate, says, "tests/workflows/ghes-caller.yml", enterprise=True),
        sha=made.MEGATRON,
        of_megatron=("gpu_tp2", "gpu_pp2"),
        **happens,
    )


ENTERPRISE = {
    "server": _on_a_server("a team's own Megatron", "success", "GREEN"),
    "server, red": _on_a_server(
        "one leg red", "failure", "1 check fails: Layer 0 Attention Output", red=("gpu_tp2",), codes={"gpu_tp2": 1}
    ),
    "server, cancelled": _on_a_server("one leg cancelled", "failure", "job self-hosted: was cancelled", cancelled=("gpu_pp2",)),
    "server, lost": _on_a_server("an artifact missing", "failure", "results-gpu_pp2", lost=("results-gpu_pp2",)),
    "server, other jobs": _on_a_server(
        "other jobs have artifacts, and all are fetched", "success", "GREEN", others=("results-unit", "logs")
    ),
    "server, run again": _on_a_server("failed jobs run again, and are green", "success", "GREEN", others=("results-gpu_tp2",)),
    "server, run again, not started": _on_a_server(
        "a job that runs again ends before it starts; its first attempt's artifact is there, all green",
        *("failure", "job self-hosted: failed"),
        others=("green results-gpu_tp2",),
        unmade=("gpu_tp2",),
        codes={"gpu_tp2": 3},
    ),
    "server, machines full": _on_a_server("machines keep an earlier job's results", "success", "GREEN", left=True),
    "server, fork": _on_a_server("pull request from a fork", "failure", payload=_FORK),
    "server, fork approved": _on_a_server(
        "fork, a maintainer approves", "success", "GREEN", payload=_FORK, approved=("gpu-forks",)
    ),
    "server, fork unprotected": _on_a_server(
        "fork, the environment asks nobody", "failure", payload=_FORK, approved=("gpu-forks",), api="no-reviewers"
    ),
}
ALL = {**SCENARIOS, **ENTERPRISE}


def play_all(folder: Path, names: Iterable[str] = tuple(ALL)) -> Mapping[str, Played]:
    """Play the scenarios, in two processes."""
    everything, green = folder / "everything.json", folder / "green"
    made.green(made.everything(everything), green)
    ran = {session.name: session for session in green.iterdir() if session.name not in made.CALLED}
    for call in made.CALLS:
        made.green(made.of_call(folder / f"{call}.json", call), green, call)
    _keep(folder / "baselines" / str(BASELINE), ran)
    _keep(folder / "baselines" / str(REMOVED), dict.fromkeys(("parity", "parity_old"), ran["parity"]))
    with serving() as server, ThreadPoolExecutor(2) as pool:
        written = {name: _written(name, folder, everything, green, server) for name in names}
        halves = [dict(list(written.items())[half::2]) for half in range(2)]
        played = [one for half in pool.map(_played, halves) for one in half]
    return {name: dict(played)[name] for name in written}


def _keep(baseline: Path, sessions: Mapping[str, Path]) -> None:
    """What an earlier run has kept."""
    for name, session in sessions.items():
        shutil.copytree(session, baseline / f"results-{name}")
    (baseline / ABOUT).write_text("{}", encoding="utf-8")


def _written(name: str, folder: Path, everything: Path, green: Path, server: str) -> Path:
    """The file that tells the runner, in a folder of the scenario. `everything` is the manifest of all sessions."""
    scenario, work = ALL[name], folder / f"scenario-{list(ALL).index(name)}"
    work.mkdir()
    results, path = work / "made", work / "scenario.json"
    _make(scenario, results, green)
    made.leftovers(work / "leftovers", green / "gpu_tp2")
    path.write_text(json.dumps(_told(scenario, work, everything, results, f"{server}/{scenario.api}")), encoding="utf-8")
    return path


def _played(written: Mapping[str, Path]) -> list[tuple[str, Played]]:
    command = ["node", str(HERE / "runner.mjs"), *map(str, written.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return [(name, Played(one["triggered"], one["jobs"], tuple(one["legs"]))) for name, one in zip(written, told, strict=True)]


def _make(scenario: Scenario, results: Path, green: Path) -> None:
    """What the sessions leave: links to what a green run leaves, and copies where something is wrong."""
    results.mkdir()
    for session in green.iterdir():
        if session.name in scenario.unmade:
            continue
        changes = [change for change, names in _changes(scenario).items() if session.name in names]
        if not changes:
            (results / session.name).symlink_to(session)
            continue
        shutil.copytree(session, results / session.name)
        for path in sorted((results / session.name).iterdir()):
            for change in changes:
                change(path)
    for session_name, code in scenario.codes.items():
        (results / f"{session_name}.code").write_text(str(code), encoding="utf-8")
    (results / "changed-files").write_text("".join(f"{name}\n" for name in scenario.changed), encoding="utf-8")


def _changes(scenario: Scenario) -> dict[Callable[[Path], None], tuple[str, ...]]:
    return {
        made.failing: scenario.red,
        made.nearer: scenario.nearer,
        made.of_megatron: scenario.of_megatron,
        made.of_an_earlier_run: scenario.old,
        made.exercising_nothing: scenario.idle,
    }


def _others(scenario: Scenario, work: Path, green: Path) -> dict[str, str]:
    """Artifacts that are there before anything runs, by name: all of them red, but those that are called green."""
    found = {}
    for said in scenario.others:
        name = said.removeprefix("green ")
        found[name] = str(green / "gpu_tp2" if said != name else work / "leftovers")
    return found


def _told(scenario: Scenario, work: Path, everything: Path, results: Path, api: str) -> dict[str, Any]:
    github = {
        "event_name": scenario.event,
        "event": dict(scenario.payload),
        "repository": OURS,
        "sha": scenario.sha,
        "ref": "refs/pull/7/merge",
        "ref_name": "main",
        "base_ref": "main" if scenario.event == "pull_request" else "",
        "workflow": "workflow",
        "token": "a token",
        "api_url": api,
        "server_url": "https://github.example",
        "run_id": "99",
    }
    return {
        "workflow": scenario.workflow,
        "github": github,
        "enterprise": scenario.enterprise,
        "job": {} if scenario.enterprise else {"workflow_repository": OURS, "workflow_sha": made.COMMIT},
        "root": str(_edited(scenario.edit, work) if scenario.edit[0] else ROOT),
        "stand_ins": str(HERE / "stand_ins"),
        "recipes": str(made.RECIPES),
        "work": str(work),
        "baselines": str(everything.parent / "baselines"),
        "environment": {
            "PYTHON": sys.executable,
            "NARROW": str(HERE / "narrow.py"),
            "EVERYTHING": str(everything),
            "MADE": str(results),
            "STAND_INS": str(HERE / "stand_ins"),
            "PLUMBLINE_HEAD": made.COMMIT,
            # One place for all workspaces, so that what is compiled once is; but a recipe is looked for beside its workspace's.
            "PYTHONPATH": "." if scenario.workflow == _RECIPE_CALLER else str(ROOT),
            "PYTHONSAFEPATH": "1",
            "PYTHONPYCACHEPREFIX": str(everything.parent / "compiled"),
        },
        "artifacts": _others(scenario, work, everything.parent / "green"),
        "left": {place: str(work / "leftovers") for place in _LEFT} if scenario.left else {},
        **{name: getattr(scenario, name) for name in ("cancelled", "skipped", "lost", "approved", "inputs")},
    }


_LEFT = ("plumbline/results", "results/results-gpu_tp2")
"""Where an earlier session, and an earlier gate, leave results in the workspace of a machine."""


def _edited(edit: tuple[str, str], work: Path) -> Path:
    """The repository with something else in the reusable workflow."""
    root = work / "root"
    shutil.copytree(ROOT / ".github", root / ".github")
    for path in ROOT.iterdir():
        if path.name in ("ci", "validation", "requirements", "tests"):
            (root / path.name).symlink_to(path)
    workflow = root / ".github" / "workflows" / "parity.yml"
    text = workflow.read_text(encoding="utf-8")
    if text.count(edit[0]) != 1:
        raise ValueError(f"{edit[0]!r} is there {text.count(edit[0])} times")
    workflow.write_text(text.replace(*edit), encoding="utf-8")
    return root


NEEDED = "Node.js 20 and GitHub's packages are needed: npm ci --prefix tests/workflows"


def node_is_there() -> bool:
    """Whether the runner can run: Node, and GitHub's packages."""
    return shutil.which("node") is not None and (HERE / "node_modules" / "@actions").is_dir()

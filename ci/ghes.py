"""`python -m ci ghes`: write .github/workflows/parity-ghes.yml, which is parity.yml as GitHub Enterprise Server can run it.

There are no YAML anchors there, no `job.workflow_sha` and no machines of GitHub's, and artifact actions end with version 3,
which fetch nothing from another run (docs/ghes.md has the sources). So all machines are a team's own: in a fork's pull
request every job waits for a maintainer. Each change is of a piece of text that must be there, so that the two files cannot
part.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from validation.case import writing
from validation.case.errors import ExitCode, UsageError

FOLDER = Path(__file__).parents[1] / ".github" / "workflows"
SOURCE, TARGET = FOLDER / "parity.yml", FOLDER / "parity-ghes.yml"
_HEAD = """\
# parity.yml as GitHub Enterprise Server can run it; docs/ghes.md says what differs. `python -m ci ghes` makes this file of
# parity.yml: change that one.
"""
_PINS = {
    "actions/checkout": "34e114876b0b11c390a56381ad16ebd13914f8d5 # v4.3.1",
    "actions/upload-artifact": "c24449f33cd45d4826c6702db7e49f7cdb9b551d # v3.2.1-node20",
    "actions/download-artifact": "ad191675b41f6a5b46da9a048cb6893812da158b # v3.1.0-node20",
}
"""Releases that run on Node 20."""
_INPUTS_LEFT_OUT = ("baseline-workflow", "keep-baseline", "accept-drift")
_STEPS_LEFT_OUT = (
    "Say whose Plumbline judges",
    "Find the baseline",
    "Fetch the baseline",
    "Compare with the baseline",
    "Make a baseline",
    "Keep the baseline",
)
_RUNNER = """\
      control-runner:
        description: "A label of the machines for plan and gate: git, and Python 3.11 or newer with venv"
        type: string
        default: self-hosted
"""
_PERMITTED = """\
    needs: permit
    if: >-
      !cancelled() && (needs.permit.result == 'success' || github.event_name != 'pull_request' ||
      github.event.pull_request.head.repo.full_name == github.repository)
"""
_CLEAN = """\
      - name: Clean before
        working-directory: ${{ github.workspace }}
        run: find . -mindepth 1 -delete

"""
_REFUSE = """\
      # A job that is skipped would be taken for passed, so this one fails, and runs nothing of the fork's.
      - name: Stop if nobody has permitted it
        if: needs.plan.result == 'skipped'
        working-directory: ${{ github.workspace }}
        run: echo "Nothing has run, because no maintainer has permitted it." | tee -a "$GITHUB_STEP_SUMMARY" && exit 1

"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--output", type=Path, default=TARGET, metavar="FILE", help="default .github/workflows/parity-ghes.yml")


def main(options: argparse.Namespace) -> int:
    """Write the file."""
    if not SOURCE.is_file():
        raise UsageError(f"{SOURCE.name}: there is none below .github/workflows, as in the installed package; use a checkout")
    writing.write(options.output, made(SOURCE.read_text(encoding="utf-8")))
    sys.stdout.write(f"{options.output}\n")
    return int(ExitCode.PASS)


def made(text: str) -> str:
    """The workflow for GitHub Enterprise Server, of the text of parity.yml. Raises UsageError for a text that is another."""
    head, _, rest = text.partition("\njobs:\n")
    jobs = _jobs(rest)
    steps = jobs["hosted"].partition("    steps: &session\n")[2]
    blocks = (
        _permit(jobs["permit"]),
        _plan(jobs["plan"]),
        _sessions(_replaced(jobs["self-hosted"], "    steps: *session\n", f"    steps:\n{steps.rstrip()}\n\n")),
        _gate(jobs["gate"]),
    )
    written = "\n\n".join(block.rstrip() for block in blocks)
    return f"{_HEAD}{_inputs(head)}\njobs:\n{_everywhere(written)}\n"


def _jobs(text: str) -> dict[str, str]:
    """Each job by its name, with the comment above it."""
    starts = list(re.finditer(r"(?:^  #.*\n)*^  ([a-z-]+):\n", text, re.MULTILINE))
    ends = [*(start.start() for start in starts[1:]), len(text)]
    return {start[1]: text[start.start() : end] for start, end in zip(starts, ends, strict=True)}


def _inputs(head: str) -> str:
    """What is before the jobs."""
    head = re.sub(r"\A(#.*\n)+", "", head)
    head = _replaced(head, "name: Parity\n", "name: Parity on GitHub Enterprise Server\n")
    for name in _INPUTS_LEFT_OUT:
        head = _without(head, rf"      {name}:\n(?:        .*\n)+")
    runner = r'(      runner:\n        description: "[^;]*); .*\n(        type: string\n)        default: ""\n'
    head = _replaced_by_pattern(head, runner, r'\1"\n\2        required: true\n')
    for name, what in (("repository", "Where Plumbline is checked out from"), ("ref", "The commit of Plumbline")):
        old = rf'(      plumbline-{name}:\n        description: "{what}); .*\n(        type: string\n)        default: ""\n'
        head = _replaced_by_pattern(head, old, r'\1"\n\2        required: true\n')
    return _replaced(head, "      timeout:\n", f"{_RUNNER}      timeout:\n")


def _permit(job: str) -> str:
    """The first of all jobs."""
    job = _replaced(job, "    needs: plan\n", "")
    job = _replaced(job, "needs.plan.outputs.self-hosted != '[]' && github.event_name", "github.event_name")
    return _control(job)


def _plan(job: str) -> str:
    job = _replaced(job, "    name: plan\n", f"    name: plan\n{_PERMITTED}")
    job = _without(job, r"      hosted: .*\n")
    job = _replaced(
        job,
        '$RUNNER_TEMP/changed-files"\n          --format github',
        '$RUNNER_TEMP/changed-files"\n          --own-machines --format github',
    )
    return _control(job)


def _sessions(job: str) -> str:
    job = _replaced(job, "    needs: [plan, permit]\n", "    needs: plan\n")
    condition = "!cancelled() && needs.plan.result == 'success' && needs.plan.outputs.self-hosted != '[]'"
    job = _replaced_by_pattern(job, r"    if: >-\n(?:      .*\n)+", f"    if: ${{{{ {condition} }}}}\n")
    job = _without(job, r"        if: runner\.environment == 'self-hosted'\n")
    job = _replaced(job, "always() && runner.environment == 'self-hosted'", "always()")
    return _without(job, r"        with:\n          python-version: .*\n")


def _gate(job: str) -> str:
    """Its steps run whatever has failed, unless a fork's pull request waits in vain: then nothing of it runs."""
    job = _replaced(job, "    needs: [plan, hosted, self-hosted]\n", "    needs: [plan, self-hosted]\n")
    for name in _STEPS_LEFT_OUT:
        job = _without(job, rf"(?:      #.*\n)?      - name: {name}\n(?:        .*\n)+\n?")
    job = _without(job, r"          (ACCEPT|BASELINE): .*\n", count=4)
    job = _without(job, r' \$\{BASELINE:\+[^}]*\} --accept="\$ACCEPT"', count=2)
    job = _without(job, r"          pattern: .*\n")
    job = _without(job, r"      actions: read .*\n")
    job = job.replace("        if: ${{ always() }}\n", "        if: ${{ always() && needs.plan.result != 'skipped' }}\n")
    job = job.replace("${{ always() && env.", "${{ always() && needs.plan.result != 'skipped' && env.")
    return _replaced(_control(job), _CLEAN, f"{_REFUSE}{_CLEAN}")


def _control(job: str) -> str:
    """A job that compares nothing, on one of the team's machines, which may be full of an earlier job's files."""
    job = _replaced(job, "    runs-on: ubuntu-24.04\n", "    runs-on: ${{ inputs.control-runner }}\n")
    return _replaced(job, "    steps:\n", f"    steps:\n{_CLEAN}")


def _everywhere(jobs: str) -> str:
    for name in ("repository", "sha"):
        jobs = re.sub(rf"\$\{{\{{ (inputs\.plumbline-\w+) \|\| job\.workflow_{name} \}}\}}", r"${{ \1 }}", jobs)
    jobs = _without(jobs, r"\n          overwrite: true$", count=2)
    for action, pin in _PINS.items():
        jobs = re.sub(rf"{action}@.*", f"{action}@{pin}", jobs)
    return jobs.replace("/.github/actions/setup\n", "/.github/actions/tools\n")


def _replaced(text: str, old: str, new: str) -> str:
    return _replaced_by_pattern(text, re.escape(old), new.replace("\\", r"\\"))


def _without(text: str, pattern: str, count: int = 1) -> str:
    return _replaced_by_pattern(text, pattern, "", count)


def _replaced_by_pattern(text: str, pattern: str, new: str, count: int = 1) -> str:
    """What is there so many times, and no more, replaced. Raises UsageError."""
    changed, found = re.subn(pattern, new, text, flags=re.MULTILINE)
    if found != count:
        raise UsageError(f"parity.yml has {pattern!r} {found} times and not {count}; change ci/ghes.py with it")
    return changed

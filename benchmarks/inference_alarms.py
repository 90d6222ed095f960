"""How far from the truth a sound candidate gets when it infers, in floors: whether 2 of them raise no false alarm.

    python benchmarks/inference_alarms.py OUT.jsonl --seeds 1:101 [--precisions fp32,bf16] [--layouts ...] [--jobs N]
    python benchmarks/inference_alarms.py --report OUT.jsonl [MORE.jsonl ...]

A line for each case; cases that are in OUT.jsonl are left out, so that a run may be interrupted. Weights and tokens are new for
every seed. docs/inference.md says what came out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from validation.case.case import Case  # noqa: E402
from validation.case.inference import FLIPS, GREEDY, generated, inferred  # noqa: E402
from validation.run import launch  # noqa: E402
from validation.run.options import parsed  # noqa: E402
from validation.run.references import REFERENCES  # noqa: E402

if TYPE_CHECKING:
    from validation.run.result import Result

LAYOUTS = "single+static,tp2+static,pp2+static,ep2+static"


def measured(case: Case, result: Result) -> dict[str, Any]:
    """The worst of a case in floors: of tensors, of decoded positions, and of choices and tokens in those of their scores."""
    floors, alone, scores = (result.facts[kind] for kind in ("floor", "floor_at", "score_floor"))
    errors: dict[str, float] = {}
    positions: dict[str, float] = {}
    flips = {GREEDY: result.measurement(f"{FLIPS}{GREEDY}", generated(case)).difference.max_abs}
    for name, one in inferred(case).items():
        if one.routes:
            flips[name] = result.measurement(f"{FLIPS}{name}", one.probe.shape[:2]).difference.max_abs
            continue
        found = result.measurement(name, one.probe.shape)
        errors[name] = found.difference.relative_error / floors[name]
        if name in alone:
            positions[name] = max(piece.difference.relative_error for piece in found.pieces) / alone[name]
    chosen = {name: margin / scores[name] for name, margin in flips.items()}
    kinds = {"tensor": errors, "position": positions, "choice": chosen}
    return {kind: max(found.values()) for kind, found in kinds.items()} | {
        f"{kind}_worst": max(found, key=lambda name: found[name]) for kind, found in kinds.items()
    }


def run(out: Path, seeds: range, precisions: list[str], names: str, jobs: int) -> None:
    """Every case that `out` does not have yet."""
    launch.prepare("gloo")
    launch.warm_up()
    REFERENCES.warm_up()
    there = {line["case"] for line in _lines([out])} if out.exists() else set()
    for seed in seeds:
        for precision in precisions:
            words = ["--layouts", names, "--precision", precision, "--seed", str(seed), "--jobs", str(jobs)]
            wanted = parsed(words)
            with out.open("a") as file:
                for line in _measured(wanted, [case for case in wanted.cases if case.name not in there]):
                    file.write(json.dumps(line) + "\n")


def _measured(wanted: Any, left: list[Case]) -> Iterator[dict[str, Any]]:
    from validation.run.runner import Runner

    with tempfile.TemporaryDirectory() as home:
        runner = Runner(replace(wanted, home=Path(home)))
        runner.start(left, "")
        for case in left:
            result = runner.result(case, "")
            if result.broken is not None:
                raise SystemExit(f"{case.title}: {result.broken.sentence}\n{result.broken.stacks}")
            yield {"case": case.name, "seed": case.seed, "precision": case.precision, **measured(case, result)}
        runner.close(references=False)


def report(files: list[Path]) -> None:
    """Print how many cases there are, and what is largest in them."""
    lines = _lines(files)
    for precision in sorted({line["precision"] for line in lines}):
        mine = [line for line in lines if line["precision"] == precision]
        print(f"{precision}: {len(mine)} cases of {len({line['seed'] for line in mine})} seeds")
        for kind in ("tensor", "position", "choice"):
            ordered = sorted(mine, key=lambda line: line[kind])
            middle, worst = ordered[len(ordered) // 2], ordered[-1]
            where = f"{worst['case']} {worst[f'{kind}_worst']}"
            print(f"  {kind}: median {middle[kind]:.3f}, largest {worst[kind]:.3f} floors ({where})")


def _lines(files: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def main() -> None:
    """Run, or report what has been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--seeds", default="1:101", help="first:behind the last")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--layouts", default=LAYOUTS)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.report:
        report(given.files)
        return
    first, _, behind = given.seeds.partition(":")
    run(given.files[0], range(int(first), int(behind)), given.precisions.split(","), given.layouts, given.jobs)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)

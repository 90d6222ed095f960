"""Whole cases over the staged transport, rehearsed on the CPU: the verdicts are those that gloo gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checks.commands import Process
from tests.checks.conftest import BROKEN, LAYERS, Output, warm

LAYOUTS = ("tp2pp2", "ep2etp2", "cp2", "dp2+distributed")
"""Between them: every collective of a step, pipelines, parts of unequal size, shares of an optimizer."""


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """One for this transport: its fork server imports other stand-ins than that of gloo."""
    found = Process()
    yield found
    found.close()


def over_staged(process: Process, cache: Path, results: Path, *words: str) -> Output:
    shared = ["run", "-v", "--transport", "staged-cpu", "--set", f"num_layers={LAYERS}", "--results", str(results)]
    done = process.run([*shared, *words], cache)
    return Output(done.returncode, done.stdout + done.stderr, results)


@pytest.fixture(scope="module")
def rehearsed(process: Process, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    return over_staged(process, cache, tmp_path_factory.mktemp("staged"), "--layouts", ",".join(LAYOUTS))


def test_a_model_that_is_right_passes_in_every_kind_of_layout(rehearsed: Output) -> None:
    assert rehearsed.code == 0, rehearsed.text
    for layout in LAYOUTS:
        assert f"tiny / {layout} / fp64 / local / staged-cpu: " in rehearsed.text


def test_reports_say_which_transport_it_was(rehearsed: Output) -> None:
    """So that nobody takes a rehearsal for a run on a GPU, nor a shared GPU for NCCL."""
    for layout in LAYOUTS:
        suite = rehearsed.suite(f"tiny-{layout}-fp64-local-staged-cpu")
        assert {entry.get("name"): entry.get("value") for entry in suite.iter("property")}["transport"] == "staged-cpu"
        assert suite.get("failures") == suite.get("errors") == "0"


def test_a_defect_fails_the_same_checks_as_over_gloo(
    process: Process, cache: Path, tmp_path: Path, broken: dict[str, Output]
) -> None:
    """One that only a collective brings about."""
    name = "gradient_reduction_lost"
    found = over_staged(process, cache, tmp_path, "--layouts", "tp2", "--implementation", f"{BROKEN}:{name}")
    assert found.code == broken[name].code == 1
    assert found.titles("FAIL") == broken[name].titles("FAIL")
    assert found.titles("FAIL")


def test_staged_without_a_gpu_ends_with_3_and_leads_to_the_cpu(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the machine has, none is visible to this command."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = warm(["run", "--share-gpu", "2", "--tp", "2", "--results", str(tmp_path)], cache)
    assert done.returncode == 3
    assert "layout tp2 on staged needs 1 GPU and no GPU was found; the same layout runs on the CPU" in done.stderr
    assert not list(tmp_path.iterdir())

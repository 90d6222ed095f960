"""A TrainJob's manifest: what Kubeflow Trainer's own schema takes, and what its pods read."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from validation.case.errors import UsageError
from validation.cli import main
from validation.run.nodes import trainjob

SCHEMA = json.loads(Path(__file__).with_name("trainjob.schema.json").read_text())
WORDS = ["--layouts", "tp2pp2", "--transport", "nccl"]


@pytest.mark.parametrize("more", [[], ["--gpus-per-node", "8"], ["--token-secret", "plumbline-token"], ["--nodes", "16"]])
def test_the_published_schema_takes_the_manifest(capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    """One pod a node, one process in each: Plumbline starts the ranks."""
    assert main(["slurm", "trainjob", "--image", "registry.example/plumbline:1", *more, "--", *WORDS]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, SCHEMA)
    trainer = found["spec"]["trainer"]
    assert trainer["args"] == [*WORDS, "--results", "/results"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (16 if "--nodes" in more else 2, 1)
    assert ("env" in trainer, "resourcesPerNode" in trainer) == ("--token-secret" in more, "--gpus-per-node" in more)


def test_the_schema_refuses_what_is_wrong() -> None:
    """Else the test above would prove nothing."""
    found = json.loads(trainjob.manifest(WORDS, 2, "image", "name"))
    for wrong in ({"numNodes": "2"}, {"replicas": 2}, {"args": [1]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**found, "spec": {**found["spec"], "trainer": {**found["spec"]["trainer"], **wrong}}}, SCHEMA)


@pytest.mark.parametrize("name", ["Upper", "", "-a", "a-", "a_b", "a" * 54])
def test_a_name_that_kubernetes_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"^--name "):
        trainjob.manifest(WORDS, 2, "image", name)


def test_more_words_than_a_trainjob_takes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^127 words of a run: a TrainJob takes 126; join layouts with commas$"):
        trainjob.manifest(["w"] * 127, 2, "image", "name")
    assert trainjob.manifest(["w"] * 126, 2, "image", "name")


@pytest.mark.parametrize("way", [["show"], ["trainjob", "--image", "image"]])
def test_a_layout_that_cannot_run_is_refused_before_a_job_waits(way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", *way, "--", "--preset", "tiny", "--layouts", "tp3"]) == 2
    assert "tp3 does not divide the 4 attention heads" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["-1", "1025"])
def test_a_number_of_gpus_that_no_node_has_is_refused(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "trainjob", "--image", "image", "--gpus-per-node", count, "--", *WORDS]) == 2
    assert f"--gpus-per-node {count}: give 0 to 1024" in capsys.readouterr().err

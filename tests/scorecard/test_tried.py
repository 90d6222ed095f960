"""Switches that need a GPU: which are tried, in what, and that the record of what came of them is in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.made.releases import recorded
from validation.case import fields
from validation.case.declared import checked, here
from validation.case.errors import EnvironmentMissing
from validation.case.settings import parsed, written
from validation.cli import main
from validation.machine import version
from validation.recipe import tries
from validation.scorecard import tried
from validation.scorecard.exercised import Seen
from validation.scorecard.tried import Switch, Trial

KEPT = [(release, setting, said) for release, found in tries.record().items() for setting, said in found.items()]


def test_what_came_of_a_switch_is_said_in_words() -> None:
    assert (
        Trial(tries.EQUAL, 384, 199, read=True).line
        == "equal (384 checks, 199 other lines of Megatron-Core, which reads the field)"
    )
    assert Trial(tries.NO_EFFECT, 1, 0).line == "no effect (1 check, 0 other lines of Megatron-Core)"
    assert Trial(tries.DIFFERENT, 300, 4, why="Layer 1 Routed Output").line == "different (300 checks): Layer 1 Routed Output"
    assert Trial(tries.BROKEN, why="no APEX").line == "does not run: no APEX"


@pytest.mark.parametrize(("release", "setting", "said"), KEPT, ids=[f"{one[0]} {one[1]}" for one in KEPT])
def test_what_is_kept_is_of_a_field_that_the_release_has(release: str, setting: str, said: dict[str, object]) -> None:
    """With the machine and its versions, and the reason if it is not equal."""
    name, value = parsed(setting)
    assert name in recorded()[release]
    assert f"{name}={written(value)}" == setting
    assert tried.is_tried(fields.entry(name))
    assert said["verdict"] in tries.VERDICTS
    assert bool(said.get("why")) == (said["verdict"] not in (tries.EQUAL, tries.NO_EFFECT))
    assert (said["checks"] == 0) == (said["verdict"] in (tries.BROKEN, tries.REFUSED))
    for what in ("NVIDIA", "torch 2.", "Transformer Engine 2."):
        assert what in str(said["on"])


def test_a_machine_without_a_gpu_is_told_what_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tried, "gpu_names", list)
    with pytest.raises(EnvironmentMissing, match="`exercised` tries switches on the CPU"):
        tried.machine()
    monkeypatch.setattr(tried, "gpu_names", lambda: ["NVIDIA H200, 143771 MiB", "NVIDIA H200, 143771 MiB"])
    assert tried.machine().startswith("NVIDIA H200, 143771 MiB, torch ")
    assert main(["tried", "--only", "model.hidden_size"]) == 2
    assert "no value of it is tried; `python -m validation fields model.hidden_size` says" in capsys.readouterr().err


def test_a_case_with_a_switch_differs_in_nothing_else() -> None:
    """Parts of a switch go with it, and what it needs stands in both."""
    without, with_it = Switch("model.cpu_offloading_weights", True).cases
    assert without.training.effective("model")["cpu_offloading"] is True
    assert set(with_it.training.settings) - set(without.training.settings) == {("model.cpu_offloading_weights", True)}
    without, with_it = Switch("model.cpu_offloading", True).cases
    assert "cpu_offloading" not in without.training.effective("model")
    assert with_it.training.effective("model")["cpu_offloading_num_layers"] == 1
    assert {without.implementation, without.precision} == {"te", "bf16"}
    assert (without.transport, Switch("ddp.overlap_grad_reduce", True).cases[1].transport) == ("nccl", "staged")


def test_every_switch_can_be_a_case() -> None:
    """But for user buffers, for which each rank needs a GPU, and CUDA graphs of whole layers with experts."""
    assert all(checked(here()[switch.name], switch.value) == switch.value for switch in tried.switches(here()))
    refused = {switch.said: said for switch in tried.switches(here()) if (said := switch.refusal)}
    graphs = {"model.cuda_graph_impl=local", "model.enable_cuda_graph=true"}
    assert {name for name in refused if not name.startswith("model.tp_comm")} == graphs
    assert all("needs a GPU for each rank" in said for name, said in refused.items() if name not in graphs)


class Bench:
    """Answers with these trials, by whether the case has the switch."""

    def __init__(self, base: Trial, found: Trial, before: Seen | None, after: Seen | None) -> None:
        self._answers: Iterator[tuple[Trial, Seen | None]] = iter([(base, before), (found, after)])

    def found(self, case: object) -> tuple[Trial, Seen | None]:
        """The next of them."""
        return next(self._answers)


NAME = "model.moe_permute_fusion"
PASS, FAIL = Trial(tries.EQUAL, 300), Trial(tries.DIFFERENT, 300, why="Layer 1 Routed Output")
LINES, MORE = Seen(frozenset({("a.py", 1)}), frozenset()), Seen(frozenset({("a.py", 1), ("a.py", 2)}), frozenset({NAME}))


@pytest.mark.parametrize(
    ("bench", "verdict", "lines", "why"),
    [
        (Bench(PASS, PASS, LINES, MORE), tries.EQUAL, 1, ""),
        (Bench(PASS, PASS, LINES, LINES), tries.NO_EFFECT, 0, ""),
        (Bench(PASS, PASS, LINES, Seen(LINES.lines, frozenset({NAME}))), tries.EQUAL, 0, ""),
        (Bench(PASS, FAIL, LINES, MORE), tries.DIFFERENT, 1, "Layer 1 Routed Output"),
        (Bench(PASS, Trial(tries.BROKEN, why="no APEX"), LINES, None), tries.BROKEN, None, "no APEX"),
        (
            Bench(FAIL, PASS, LINES, MORE),
            tries.BROKEN,
            None,
            "beside it, the case without it is different: Layer 1 Routed Output",
        ),
    ],
)
def test_a_verdict_is_that_of_the_checks_and_of_the_lines(bench: Bench, verdict: str, lines: int | None, why: str) -> None:
    """What runs the same lines proves nothing; what needs a case that is wrong itself is not judged."""
    found = tried.trial(Switch(NAME, True), bench)  # type: ignore[arg-type]
    assert (found.verdict, found.lines, found.why) == (verdict, lines, why)


def test_what_is_in_the_record_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If only what is missing is asked for."""
    monkeypatch.setattr(tries, "TABLE", tmp_path / "tried.json")
    monkeypatch.setattr(tried, "gpu_names", lambda: ["NVIDIA H200, 143771 MiB"])
    monkeypatch.setattr(tried, "trials", lambda asked, jobs, command: ((one, PASS) for one in asked))
    everything = {one.said for one in tried.switches(here())}
    tries.keep({NAME + "=true": {"verdict": "equal"}}, version("megatron-core"))
    for words, left in (
        (["--missing"], everything - {f"{NAME}=true"}),
        (["--missing", "--only", NAME], set()),
        ([], everything),
    ):
        assert main(["tried", *words]) == 0
        assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == left


def test_the_record_keeps_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tried.json"
    monkeypatch.setattr(tries, "TABLE", path)
    assert tries.record() == {}
    tries.keep({"model.a=true": {"verdict": "equal"}, "model.b=[x]": {"verdict": "equal"}}, "0.16.1")
    tries.keep({"model.a=true": {"verdict": "different"}}, "0.19.2")
    tries.keep({"model.a=true": {"verdict": "no effect"}}, "0.16.1")
    assert {release: list(found) for release, found in json.loads(path.read_text()).items()} == {
        "0.16.1": ["model.a=true", "model.b=[x]"],
        "0.19.2": ["model.a=true"],
    }
    assert list(tries.of_field("model.a")) == [
        ("0.16.1", "true", {"verdict": "no effect"}),
        ("0.19.2", "true", {"verdict": "different"}),
    ]


def test_a_record_of_another_machine_is_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no record changes nothing."""
    monkeypatch.setattr(tries, "TABLE", tmp_path / "tried.json")
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps({"0.16.1": {"model.a=true": {"verdict": "equal"}}}))
    assert main(["tried", "--take", str(theirs)]) == 0
    assert tries.record() == {"0.16.1": {"model.a=true": {"verdict": "equal"}}}
    for text, said in (
        ("[]", "no record of switches"),
        ('{"0.16.1": {"model.a=true": {"verdict": "fine"}}}', "is none of equal"),
    ):
        theirs.write_text(text)
        assert main(["tried", "--take", str(theirs)]) == 2
        assert said in capsys.readouterr().err
    assert tries.record() == {"0.16.1": {"model.a=true": {"verdict": "equal"}}}

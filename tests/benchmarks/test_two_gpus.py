"""What only several GPUs show: every case can be run over both transports, and the tables say what became of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import activations, two_gpus, two_nodes
from benchmarks.gpu import Row
from benchmarks.transports import Pair
from ci import junit
from validation.case.preflight import RULES
from validation.run.options import parsed


@pytest.mark.parametrize("transport", [two_gpus.FIRST, two_gpus.SECOND])
def test_every_case_can_be_run_with_two_gpus(transport: str) -> None:
    """Over nccl of two ranks; over staged as many cases, in the same order."""
    for group in two_gpus.GROUPS:
        cases = parsed(group.command(transport, rehearse=False)).cases
        assert len(cases) == len(group.layouts)
        assert {case.transport for case in cases} == {transport}
        for case in cases:
            refused = [sentence for rule in RULES if (sentence := rule(case))]
            assert not refused
            assert transport == two_gpus.SECOND or case.layout.ranks == two_gpus.RANKS


def test_what_nccl_alone_has_stands_beside_its_like() -> None:
    """Of the same data; words of the user are for both."""
    groups = [one for one in two_gpus.GROUPS if one.alike]
    ours, theirs = (
        [
            case.arrangement
            for group in groups
            for case in parsed(group.command(transport, rehearse=False, more=["--seed", "7"])).cases
        ]
        for transport in (two_gpus.FIRST, two_gpus.SECOND)
    )
    apart = [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
    levels = 'cp_comm_type="a2a+p2p"+hierarchical_context_parallel_sizes='
    assert apart == [(f"cp2+{levels}[1,2]", f"cp4+{levels}[2,2]"), ("tp2+tp_comm_overlap", "tp2")]
    assert two_gpus._options(["--jobs", "2", "--", "--set", "num_hidden_layers=2"]).more == ["--set", "num_hidden_layers=2"]


def test_what_was_left_out_is_told_by_its_like(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of one transport there are rows, of the other none: no agreement."""
    check = junit.Check("mla", "a", "pass", properties={"rel_error": "1e-3", "max_diff": "1", "avg_diff": "1", "floor": "1e-3"})

    def run(group: two_gpus.Group, transport: str, options: Any) -> list[Any]:
        return [(Row(f"{layout}-{transport}", "pass", checks=1), (check,)) for layout in group.layouts]

    monkeypatch.setattr(two_gpus, "run", run)
    group = two_gpus.Group("mtp", ("pp2+mtp",), ())
    (alone,) = two_gpus.both(group, SimpleNamespace(transports="staged"))
    assert (alone.nccl.verdict, alone.staged.verdict, alone.agrees) == ("not run", "pass", False)
    (whole,) = two_gpus.both(group, SimpleNamespace(transports="nccl,staged"))
    assert (whole.compared, whole.same, whole.agrees) == (1, 1, True)
    text = two_gpus.table({"mtp": [alone, whole]}, {"gpu": "2 x H200", "variables": ""}, 12.0)
    assert "| pp2+mtp-staged | not run / pass |" in text
    assert "| pp2+mtp-nccl | pass / pass |" in text
    assert text.startswith("gpu: 2 x H200\nall in 12 s\n")


def test_too_few_gpus_and_unknown_groups_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(two_gpus, "gpus", lambda: 1)
    assert two_gpus.main(["--out", str(tmp_path)]) == 3
    assert "nccl needs 2 GPUs, and 1 were found" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--only speed is unknown; known are steps-te, "):
        two_gpus.main(["--out", str(tmp_path), "--only", "speed", "--transports", "staged"])


def test_both_nodes_have_a_gpu_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And NCCL takes them for two hosts; over staged they share the first."""
    given: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **named: given.append(named["env"]))
    where = two_nodes.Where(((), ()), "127.0.0.1", "")
    for transport in ("nccl", "staged", "gloo"):
        two_nodes.started(SimpleNamespace(transport=transport), where, tmp_path / transport, ["--tp", "2"])
    seen = [(one.get("CUDA_VISIBLE_DEVICES"), one["NCCL_HOSTID"]) for one in given]
    assert seen[:4] == [("0", "node-0"), ("1", "node-1"), ("0", "node-0"), ("0", "node-1")]


def test_the_table_of_nodes_has_both_times_and_what_was_left() -> None:
    row = Row("mini-tp2", "pass", checks=5, worst="0.4", seconds=3.0, gpu_mib=900)
    found = two_nodes.Found({"gpu": "H200"}, "the loopback", [row], [10.0, 12.0], [15.0, 16.0], {"exit code of node 0": 4})
    text = two_nodes.table(found)
    assert "| mini-tp2 | pass | 5 | 0.4 | 3.0 | 900 |" in text
    assert "- one node: 10.0, 12.0 s; two nodes: 15.0, 16.0 s; apart: 4.5 s" in text
    assert "- killed node, exit code of node 0: 4" in text


@pytest.mark.parametrize(
    "of", [one for one in activations.CASES if not one[2].endswith("+mtp")], ids=lambda of: "-".join(map(str, of))
)
def test_what_is_estimated_for_a_gpu_is_of_one_layer_and_of_all(of: Any) -> None:
    """A model keeps at least what its layers keep, and full recomputation a layer's input."""
    preset, implementation, word, length = of
    case = activations.the_case(preset, implementation, word, length)
    dense, experts, parts = activations.estimated(case)
    layers = len(case.model.dense_layers) * dense + len(case.model.moe_layers) * experts
    assert 0 < layers <= parts.activations < layers + 40 * case.seq_length * case.model.hidden_size
    assert (dense == experts == 2 * length * case.model.hidden_size) is word.endswith("+full")


def test_a_pair_that_stands_for_nothing_is_told_as_such() -> None:
    assert not Pair(Row("", "not run"), Row("", "not run")).agrees

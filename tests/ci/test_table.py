"""The table of sessions: what it says, and that nothing out of order gets into it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ci.table import TABLE, Row, rows
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.run.command_line import add_options
from validation.run.options import parsed

EIGHT = ("single", "tp2", "pp2", "ep2", "cp2", "dp2", "tp2ep2", "tp2pp2")
ONE_ROW = """rows:
  - session: one
    does: compare
    preset: tiny
    layouts: [tp2]
    precision: fp64
    implementation: local
    transport: gloo
    runner: [ubuntu]
    when: [nightly]
    timeout: 1
"""


def row(session: str) -> Row:
    return next(found for found in rows() if found.session == session)


def table(folder: Path, text: str) -> Path:
    path = folder / "table.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def compared() -> list[Case]:
    return list(parsed(row("parity").arguments()[1:]).cases)


def expert_data_parallel(layout: Layout) -> int:
    return layout.tp * layout.cp * layout.data_parallel // (layout.ep * layout.expert_tp)


@pytest.mark.parametrize(
    ("what", "holds"),
    [
        ("copies of experts that are spread", lambda case: case.layout.ep > 1 and expert_data_parallel(case.layout) > 1),
        (
            "gradients added up before data-parallel ranks",
            lambda case: case.layout.data_parallel > 1 and case.micro_batches > 1,
        ),
        (
            "a pipeline under data parallelism",
            lambda case: min(case.layout.pp, case.layout.data_parallel, case.micro_batches) > 1,
        ),
        ("a mean over data-parallel ranks", lambda case: case.training.loss == "mean" and case.layout.data_parallel > 1),
        ("a mean over context-parallel ranks", lambda case: case.training.loss == "mean" and case.layout.cp > 1),
        ("the same of spread experts", lambda case: case.training.loss == "mean" and expert_data_parallel(case.layout) > 1),
        ("sharded states over cp", lambda case: case.training.optimizer == "distributed" and case.layout.cp > 1),
        ("sharded states with spread experts", lambda case: case.training.optimizer == "distributed" and case.layout.ep > 1),
    ],
)
def test_parity_runs_every_kind_of_reduction(what: str, holds: Callable[[Case], bool]) -> None:
    """A group of one rank, or a single micro-batch, reduces nothing: a reduction that is missing there would not be seen."""
    assert any(map(holds, compared())), f"no layout of the row has {what}"


def test_parity_compares_every_kind_of_layout_in_one_command() -> None:
    layouts = row("parity").layouts
    assert len(layouts) >= 20
    for degree in ("tp", "pp", "vpp", "ep", "etp", "cp", "dp"):
        assert any(f"{degree}2" in layout for layout in layouts)
    for word in ("distributed", "full", "selective", "allgather", "1-3"):
        assert any(f"+{word}" in layout for layout in layouts)
    assert row("parity").arguments() == [
        "run",
        *("--preset", "tiny"),
        *("--layouts", ",".join(layouts)),
        *("--precision", "fp64"),
        *("--implementation", "local"),
        *("--transport", "gloo"),
    ]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_layout_has_a_session_on_the_cpu_and_on_gpus(kind: str) -> None:
    layouts = EIGHT if kind == "gpu" else (*EIGHT, "tp2etp2", "pp2ep2")
    found = {found.session: found.layouts for found in rows() if not found.inference}
    assert {f"{kind}_{layout}": (layout,) for layout in layouts}.items() <= found.items()


@pytest.mark.parametrize("layout", EIGHT)
def test_a_gpu_session_asks_for_a_gpu_a_rank_and_a_cpu_session_for_none(layout: str) -> None:
    assert row(f"gpu_{layout}").gpus == Layout.parse(layout).ranks
    assert row(f"cpu_{layout}").gpus == 0


def on_gpus(event: str) -> list[Case]:
    """What sessions on GPUs compare for an event."""
    chosen = [found for found in rows() if found.gpus and event in found.when]
    return [case for found in chosen for case in parsed(found.arguments()[1:]).cases]


def test_a_pull_request_meets_what_people_train_with() -> None:
    """Transformer Engine in bf16, in each degree and two mixes of them, with an MTP layer and with optimizer steps."""
    found = on_gpus("pull_request")
    assert {(case.implementation, case.precision) for case in found} == {("te", "bf16")}
    assert {case.layout.name for case in found} >= set(EIGHT)
    assert any(case.model.mtp_layers for case in found)
    assert any(case.training.steps for case in found)
    assert any(case.training.steps and case.training.optimizer == "distributed" for case in found)


@pytest.mark.parametrize(
    ("what", "holds"),
    [
        ("delayed scaling", lambda case: case.training.fp8 == "delayed"),
        ("steps with delayed scaling", lambda case: case.training.fp8 == "delayed" and case.training.steps),
        ("block scaling", lambda case: case.training.fp8 == "blockwise"),
        ("steps with block scaling", lambda case: case.training.fp8 == "blockwise" and case.training.steps),
        ("Transformer Engine in fp32", lambda case: case.uses_te and case.precision == "fp32"),
        ("fp64", lambda case: case.precision == "fp64"),
        ("packed documents", lambda case: case.uses_te and case.training.data_shape == "packed"),
        ("what has no Transformer Engine", lambda case: case.implementation == "local" and case.precision == "bf16"),
    ],
)
def test_every_night_has_the_rest(what: str, holds: Callable[[Case], bool]) -> None:
    assert any(map(holds, on_gpus("nightly"))), f"no GPU session of the night has {what}"


def test_sessions_of_gpus_and_of_slurm_run_on_our_own_machines_only() -> None:
    wrong = [found.session for found in rows() if (found.gpus > 0 or found.nodes > 1) != ("self-hosted" in found.runner)]
    assert wrong == []


def test_a_row_with_nodes_is_a_job_of_slurm(tmp_path: Path) -> None:
    """The words of its run are those that the manifest is made with; further ones may follow."""
    (found,) = rows(table(tmp_path, f"{ONE_ROW}    nodes: 2\n"))
    assert found.command() == ["slurm", "run", "--nodes", "2", "--", *found.arguments()[1:]]
    (alone,) = rows(table(tmp_path, ONE_ROW))
    assert alone.command() == alone.arguments()


@pytest.mark.parametrize(
    ("layout", "nodes", "said"),
    [
        ("tp2", "3", "nodes is 3 and tp2 has 2 ranks; a node without a rank compares nothing"),
        ("tp2+step-resume-step", "2", "nodes share none; run it on one machine, or leave resume out"),
        ("tp2", "0", "nodes is 0; it must be a number of nodes"),
    ],
)
def test_a_row_that_nodes_cannot_run_is_refused(tmp_path: Path, layout: str, nodes: str, said: str) -> None:
    text = ONE_ROW.replace("[tp2]", f"[{layout}]")
    with pytest.raises(UsageError, match=re.escape(said)):
        rows(table(tmp_path, f"{text}    nodes: {nodes}\n"))


def test_every_pull_request_is_compared_on_the_cpu_and_on_gpus() -> None:
    asked = {found.transport for found in rows() if "pull_request" in found.when}
    assert asked == {"gloo", "nccl"}


def test_the_command_line_knows_every_argument_of_a_row() -> None:
    options: set[str] = set()
    add_options(lambda *names, **_: options.update(names))
    given = {word for found in rows() for word in found.arguments() if word.startswith("--")}
    assert given <= options


def test_a_row_may_have_numbers_of_its_own(tmp_path: Path) -> None:
    """They are of the model that is tried, and of the command; a row without has none."""
    of_its_own = "set: [rms_norm_eps=1e-5, num_layers=2]\n    layouts: [tp2"
    (found,) = rows(table(tmp_path, ONE_ROW.replace("layouts: [tp2", of_its_own)))
    assert found.arguments()[-4:] == ["--set", "rms_norm_eps=1e-5", "--set", "num_layers=2"]
    (case,) = parsed(found.arguments()[1:]).cases
    assert (case.model.rms_norm_eps, case.model.num_hidden_layers) == (1e-5, 2)
    assert row("parity").set == ()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("[rms_norm_eps]", "one: set has 'rms_norm_eps'; write a number of the model as name=value"),
        ("[n_heads=3]", "one: --set n_heads=3: no such number"),
        ("[num_attention_heads=5]", "one: tp2 does not divide the 5 attention heads"),
        ("[]", "one: set is []; it must be a list of words"),
    ],
)
def test_a_row_with_numbers_that_no_model_can_have_is_refused(numbers: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        rows(table(tmp_path, ONE_ROW.replace("layouts:", f"set: {numbers}\n    layouts:")))


@pytest.mark.parametrize("session", ["parity_moonlight", "parity_glm4_moe_lite"])
def test_models_with_another_epsilon_are_compared_in_every_kind_of_group(session: str) -> None:
    """Nearly all their checks were excused once."""
    assert "rms_norm_eps=1e-5" in row(session).set
    assert {"single", "tp2", "pp2", "ep2", "tp2ep2"} <= {*row(session).layouts}


def test_a_row_with_each_is_one_session_per_layout_with_its_name_filled_in(tmp_path: Path) -> None:
    text = ONE_ROW.replace("layouts: [tp2]", "each: [single, tp2]").replace("one", '"on_{layout}"')
    found = rows(table(tmp_path, text.replace("compare", "'{layout}: {ranks}'")))
    assert [(row.session, row.does, row.layouts) for row in found] == [
        ("on_single", "single: 1 rank", ("single",)),
        ("on_tp2", "tp2: 2 ranks", ("tp2",)),
    ]


@pytest.mark.parametrize(
    ("instead_of", "written", "sentence"),
    [
        pytest.param("[tp2]", "[tp2x]", "one: layout 'tp2x' is not one", id="unknown layout"),
        pytest.param("[tp2]", "[tp3]", "one: .*tp3", id="layout that does not divide the model"),
        pytest.param("[tp2]", "[tp2, tp2]", "one: layout tp2 is there twice", id="layout twice"),
        pytest.param("[tp2]", "tp2", "one: layouts is 'tp2'; it must be a list of words", id="layout outside a list"),
        pytest.param("[tp2]", "[]", r"one: layouts is \[\]; it must be a list", id="no layouts"),
        pytest.param("[tp2]", "[2]", r"one: layouts is \[2\]; it must be a list", id="number for a layout"),
        pytest.param("layouts: [tp2]", "each: [tp2]", "one: .*put {layout} into its session name", id="each under one name"),
        pytest.param("    layouts: [tp2]\n", "", "one: give either `layouts`", id="neither layouts nor each"),
        pytest.param("timeout:", "timout:", "one: timout is unknown; a row has .*timeout", id="unknown key"),
        pytest.param("    timeout: 1\n", "", "one: timeout is missing", id="missing key"),
        pytest.param("timeout: 1", "timeout: soon", "one: timeout is 'soon'; it must be a whole number", id="timeout in words"),
        pytest.param("timeout: 1", "timeout: 0", "one: timeout is 0", id="no time"),
        pytest.param(
            "gloo",
            "ncll",
            "one: transport 'ncll' is unknown; known are gloo, nccl, staged and staged-cpu",
            id="unknown transport",
        ),
        pytest.param("fp64", "fp6", "one: precision 'fp6' is unknown", id="unknown precision"),
        pytest.param("local", "locale", "one: implementation 'locale' is unknown", id="unknown implementation"),
        pytest.param("tiny", "teeny", "one: preset 'teeny' is unknown", id="unknown preset"),
        pytest.param("local", "te", "one: Transformer Engine needs GPUs", id="case that no machine can run"),
        pytest.param("nightly", "weekly", "one: event 'weekly' is unknown", id="unknown event"),
        pytest.param("[ubuntu]", "[]", r"one: runner is \[\]", id="no runner"),
        pytest.param("session: one", "session: 5", "5: session is 5; it must be text", id="number for a name"),
        pytest.param(ONE_ROW, "rows: []", "there is no list of `rows`", id="no rows"),
        pytest.param(ONE_ROW, "rows: 3", "there is no list of `rows`", id="number for the rows"),
        pytest.param(ONE_ROW, "rows: [3]", "row 1: 3 is no row", id="number for a row"),
        pytest.param(ONE_ROW, "", "there is no list of `rows`", id="empty file"),
        pytest.param(ONE_ROW, "[", "not YAML", id="not YAML"),
    ],
)
def test_a_table_out_of_order_is_refused_with_the_row_and_the_reason(
    tmp_path: Path, instead_of: str, written: str, sentence: str
) -> None:
    assert instead_of in ONE_ROW
    with pytest.raises(UsageError, match=f"^table.yaml: {sentence}"):
        rows(table(tmp_path, ONE_ROW.replace(instead_of, written)))


def test_two_sessions_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = ONE_ROW + ONE_ROW.removeprefix("rows:\n")
    with pytest.raises(UsageError, match="session one is there twice"):
        rows(table(tmp_path, twice))


def test_planning_loads_neither_torch_nor_more_of_validation_than_the_case() -> None:
    loaded = "import sys, ci.table; print(*sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'validation')))"
    root = TABLE.parents[1]
    shown = subprocess.run([sys.executable, "-c", loaded], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    assert "validation.case.layout" in shown
    assert [name for name in shown if name != "validation" and not name.startswith("validation.case")] == []

"""The manifest names every check that sessions must report (a real run against it: tests/checks/test_reported_checks.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ci import commit
from ci.cli import main
from ci.expected import load
from ci.table import rows
from tests.ci.green import MANIFEST
from tests.test_arrows import heavy_after

SELF_TEST = "self-test-tiny-tp2-fp64-local-gloo.xml"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two sessions."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.json"
    assert main(["manifest", "--session", "cpu_single", "--session", "cpu_tp2", "--output", str(path)]) == 0
    return path


def test_sessions_come_in_order_each_with_its_cases_and_its_self_test(manifest: Path) -> None:
    assert [(suite.session, suite.file) for suite in load(manifest).suites] == [
        ("cpu_single", "tiny-single-fp64-local-gloo.xml"),
        ("cpu_single", "self-test-tiny-single-fp64-local-gloo.xml"),
        ("cpu_tp2", "tiny-tp2-fp64-local-gloo.xml"),
        ("cpu_tp2", SELF_TEST),
    ]


def test_a_testsuite_says_all_that_its_results_must_say(manifest: Path) -> None:
    suite = load(manifest).suites[2]
    assert suite.ranks == 2
    wanted = {"preset": "tiny", "precision": "fp64", "implementation": "local", "transport": "gloo", "layout": "tp2"}
    assert {**wanted, "ranks": "2"}.items() <= dict(suite.properties).items()
    assert {Requirement(line).name for line in suite.requires} == {"torch", "transformers", "megatron-core"}
    assert ("mla", "Layer 0 Query after RoPE") in suite.checks
    assert len(suite.checks) > 600
    assert {name for _, name in set(suite.checks) - set(suite.tensors)} == {
        "Every rank finishes",
        "Every checkpoint key used",
        "Every Megatron tensor set",
    }
    limits = {limit: {name for name, tensor in suite.tensors.items() if tensor.limit == limit} for limit in (0, 1e-10, 1e-9)}
    assert set().union(*limits.values()) == set(suite.tensors)
    assert {component for component, _ in limits[0]} == {"weights", "router"}
    assert {component for component, _ in limits[1e-9]} == {"steps"}
    assert suite.tensors["mla", "Layer 0 Query after RoPE"].elements == 4 * 48 * 4 * 48
    assert suite.near_ties == frozenset()
    assert [bug.megatron_core for bug in suite.excuses] == [">=0.12.3,<0.14"]


def test_a_manifest_says_which_sessions_test_themselves(manifest: Path) -> None:
    files = {"cpu_single": "self-test-tiny-single-fp64-local-gloo.xml", "cpu_tp2": SELF_TEST}
    assert load(manifest).self_tests == files


def test_a_session_without_its_self_test_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever lists the checks of a session: the self-test is asked for unless --no-self-test says otherwise."""
    monkeypatch.setattr("ci.manifest._collected", lambda row, self_test: MANIFEST)
    assert main(["manifest", "--session", "parity", "--output", str(tmp_path / "m.json")]) == 3
    assert capsys.readouterr().err == (
        "error: the checks of parity lack its self-test, and it is on; --no-self-test asks for none\n"
    )
    assert main(["manifest", "--session", "parity", "--no-self-test", "--output", str(tmp_path / "m.json")]) == 0


def test_below_fp64_a_choice_alone_may_be_a_near_tie_and_no_limit_is_wider_than_what_decides(tmp_path: Path) -> None:
    words = ["--session", "parity_bf16", "--no-self-test", "--output", str(tmp_path / "m.json")]
    assert main(["manifest", *words]) == 0
    for suite in load(tmp_path / "m.json").suites:
        assert {name.removeprefix("Layer ")[2:] for _, name in suite.near_ties} == {"Router Output"}
        assert suite.tensors["weights", "Embedding Weight"].limit == 0
        assert max(tensor.limit for tensor in suite.tensors.values()) == 0.5


def test_it_says_the_commit_of_this_tree(manifest: Path) -> None:
    told, facts = load(manifest), commit.facts()
    assert (told.commit, told.dirty) == (facts.get("commit", ""), facts["dirty"])


def test_an_event_stands_for_its_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.manifest.rows", lambda: [row for row in rows() if row.session in ("cpu_tp2", "gpu_single")])
    assert main(["manifest", "--event", "nightly", "--output", str(tmp_path / "m.json")]) == 0
    assert {suite.session for suite in load(tmp_path / "m.json").suites} == {"gpu_single"}


def test_a_session_need_not_test_itself_and_a_library_can_be_demanded_otherwise(tmp_path: Path) -> None:
    """A team's own Megatron may be older than the one that is installed here."""
    words = ["--minimum", "megatron-core=0.15.3", "--no-self-test", "--output", str(tmp_path / "m.json")]
    main(["manifest", "--session", "cpu_single", *words])
    (suite,) = load(tmp_path / "m.json").suites
    assert load(tmp_path / "m.json").self_tests == {}
    assert suite.file == "tiny-single-fp64-local-gloo.xml"
    assert [line for line in suite.requires if "megatron-core" in line] == ["megatron-core>=0.15.3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--session", "gpu_tp3"], "--session gpu_tp3: unknown; ci/matrix.yaml has "),
        (["--session", "parity", "--session", "parity"], "--session parity: given twice; a session is run once"),
        (["--session", "cpu_tp2", "--minimum", "torch"], "--minimum torch: give NAME=VERSION, such as megatron-core=0.15.3"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_an_event_that_runs_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ci.manifest.rows", lambda: [row for row in rows() if not row.when])
    assert main(["manifest", "--event", "nightly"]) == 2
    assert "a gate with nothing to ask for is none" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_said_before_any_check_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ci.manifest._listed", lambda *given: pytest.fail("it listed the checks"))
    (tmp_path / "file").touch()
    assert main(["manifest", "--session", "parity", "--output", str(tmp_path / "file" / "m.json")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output {tmp_path / 'file' / 'm.json'}: no file can be made in ")
    assert main(["manifest", "--session", "parity", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: --output {tmp_path}: is a folder; name a file that can be written\n"


def test_checks_that_cannot_be_listed_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "__main__.py").write_text("raise SystemExit('no pytest here')\n")
    monkeypatch.setattr("ci.manifest.ROOT", tmp_path)
    assert main(["manifest", "--session", "parity", "--output", str(tmp_path / "m.json")]) == 3
    assert capsys.readouterr().err == "error: the checks of parity cannot be listed: no pytest here\n"
    assert not (tmp_path / "m.json").exists()


def test_listing_the_checks_loads_no_torch(tmp_path: Path) -> None:
    words = ["run", "--layouts", "single,tp2", "--self-test", "--manifest", str(tmp_path / "m.json")]
    assert heavy_after(f"from validation.cli import main\nassert main({words!r}) == 0") == []

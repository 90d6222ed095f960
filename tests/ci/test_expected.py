"""The manifest's file: what is written can be read, and what is none is refused with a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.expected import UnreadableManifest, load, save
from tests.ci.green import EXPECTED, MANIFEST


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    save(tmp_path / "m" / "manifest.json", MANIFEST)
    assert load(tmp_path / "m" / "manifest.json") == MANIFEST
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["manifest.json"]


def test_names_in_any_script_read_back(tmp_path: Path) -> None:
    manifest = replace(MANIFEST, suites=(replace(EXPECTED, checks=(("前向", '"::error::"\n'),)),))
    save(tmp_path / "manifest.json", manifest)
    assert load(tmp_path / "manifest.json") == manifest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("", "not JSON", id="empty"),
        pytest.param('{"format": 1', "not JSON", id="cut off"),
        pytest.param("[" * 100_000, "not JSON", id="nested"),
        pytest.param("[]", "not a manifest of format 8", id="list"),
        pytest.param('{"format": 7, "suites": []}', "not a manifest of format 8", id="another format"),
        pytest.param('{"format": 8, "suites": []}', "KeyError 'self_tests'", id="no commit"),
        pytest.param('{"format": 8, "commit": "", "dirty": ""}', "KeyError 'suites'", id="no suites"),
        pytest.param('{"format": 8, "suites": 3, "commit": "", "dirty": ""}', "TypeError", id="no list"),
        pytest.param('{"format": 8, "suites": [3], "commit": "", "dirty": ""}', "TypeError", id="no suite"),
        pytest.param('{"format": 8, "suites": [], "commit": "", "dirty": ""}', "KeyError 'self_tests'", id="no self-tests"),
        pytest.param('{"format": 8, "suites": [], "commit": "", "dirty": "", "self_tests": []}', "AttributeError", id="a list"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)
    with pytest.raises(UnreadableManifest) as raised:
        load(path)
    assert said in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")
    assert "python -m ci manifest" in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableManifest, match=r"none\.json: No such file or directory; write it with python -m ci manifest"):
        load(tmp_path / "none.json")


@pytest.mark.parametrize("file", ["tiny-tp2+bucket_size=1000-fp64.xml", "mini-pp2+1-3+step25-bf16-te-nccl.xml"])
def test_a_file_is_named_as_cases_are(tmp_path: Path, file: str) -> None:
    """With the settings of a case, which have a sign of equality."""
    path = tmp_path / "manifest.json"
    save(path, replace(MANIFEST, suites=(replace(MANIFEST.suites[0], file=file),)))
    assert load(path).suites[0].file == file


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", "../../etc/passwd.xml"),
        ("file", "/etc/passwd.xml"),
        ("file", ".hidden.xml"),
        ("file", "a/b.xml"),
        ("file", "a\\b.xml"),
        ("file", "a.json"),
        ("file", "a" * 300 + ".xml"),
        ("file", "a\n.xml"),
        ("session", "../a"),
        ("session", "a/b"),
        ("session", "a b"),
        ("covers", ["model.a=true"]),
        ("covers", {"model.a=true": 1}),
        ("ranks", -1),
        ("ranks", "2"),
        ("ranks", True),
        ("ranks", 1.5),
        ("name", None),
        ("properties", {"preset": 3}),
        ("requires", {"torch": ">=2"}),
        ("requires", [3]),
        ("requires", ["torch >= soon"]),
        ("tensors", [3]),
        ("tensors", {"mla": ["Layer 0 Query"]}),
        ("tensors", {"mla": {"Layer 0 Query": {"elements": 24, "limit": "1e-10"}}}),
        ("tensors", {"mla": {"Layer 0 Query": {"elements": 24, "limit": 3.0}}}),
        ("tensors", {"mla": {"Layer 0 Query": {"elements": 0, "limit": 0.0}}}),
        ("near_ties", {"router": 3}),
        ("excuses", [{"what": "a bug", "megatron_core": "<1", "checks": [3]}]),
        ("excuses", [{"what": "a bug"}]),
        ("checks", {"mla": "Layer 0"}),
        ("checks", {"mla": [3]}),
    ],
)
def test_a_testsuite_that_cannot_be_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "manifest.json"
    save(path, MANIFEST)
    content = json.loads(path.read_text())
    content["suites"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UnreadableManifest):
        load(path)

"""The examples in README and the guides, run: what they print is what stands there, and what the picture shows.

Seconds, and numbers that rounding makes, differ from run to run and from machine to machine: they are left out on both sides.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.docs.blocks import CHINESE, README, blocks, unwrapped
from tests.docs.markdown import DOCS, ROOT

DEFECT = "tests.checks.broken_specs:reduction_lost"
RUNS = {
    "red": f"--layouts single,tp2,pp2,tp2ep2 --implementation {DEFECT}".split(),
    "isolated": [*f"--layouts tp2 --isolated --implementation {DEFECT} --only".split(), "Layer 0 Attention Output"],
    "known": [*["--layouts", "tp2", "--implementation", "local-stock", "--only"], "Layer 3 KV Latent Gradient"],
    "plugin": [*["--tp", "2", "--plugin", "doubled_norm.py:2", "--only"], "Layer 2 Input Norm Output"],
    "spec": [*["--tp", "2", "--implementation", "my_spec:layers", "--only"], "Layer 0 Attention Output"],
}
SECONDS = re.compile(r"\s+\d+(\.\d)? s\b")
ROUNDING = re.compile(r"\d\.\d+e-(1[0-9]|0[5-9])|0\.0e\+00")
NEAREST = re.compile(r"worst: .*? of its limit")


def told(text: str) -> str:
    """A text without its colours and without what no two runs share."""
    plain = unwrapped(re.sub(r"\x1b\[[0-9;]*m", "", text))
    return NEAREST.sub("worst", ROUNDING.sub("tiny", SECONDS.sub(" N s", plain)))


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The script of the picture."""
    spec = importlib.util.spec_from_file_location("make", DOCS / "pictures" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command prints, with the files of the pages beside it; one process runs them all."""
    here = tmp_path_factory.mktemp("reader")
    for page, name in (("plugin", "doubled_norm.py"), ("own-spec", "my_spec.py")):
        (text,) = blocks(DOCS / f"{page}.md", "python")
        assert text.startswith(f"# {name}")
        (here / name).write_text(text, encoding="utf-8")
    commands = [["run", *words, "--results", str(here / name)] for name, words in RUNS.items()]
    paths = os.pathsep.join([str(ROOT), str(here)])
    environment = {**os.environ, "PYTHONPATH": paths, "FORCE_COLOR": "1", "NO_COLOR": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.checks.commands", str(here)],
        input=json.dumps(commands),
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    assert json.loads(done.stdout) == [1, 1, 0, 1, 0], done.stderr
    return {name: (here / f"{number}.txt").read_text(encoding="utf-8") for number, name in enumerate(RUNS)}


def test_the_picture_shows_what_the_command_prints_now(printed: dict[str, str], make: ModuleType) -> None:
    """If this fails, run docs/pictures/make.py and look at the picture."""
    assert list(make.COMMAND) == ["python", "-m", "validation", "run", *RUNS["red"]]
    assert told(in_picture(make.PICTURE.read_text(encoding="utf-8"))) == told(in_picture(make.drawn(printed["red"])))
    assert make.PICTURE.stat().st_size < 20_000


def in_picture(svg: str) -> str:
    """The lines of text of a terminal's picture, without the title of its window."""
    root = ElementTree.fromstring(svg)
    lines: dict[str, str] = {}
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        if "clip-path" in element.attrib:
            lines[element.attrib["y"]] = lines.get(element.attrib["y"], "") + (element.text or "")
    return "\n".join(lines.values()).replace("\xa0", " ")


def test_the_picture_needs_nothing_of_other_sites(make: ModuleType) -> None:
    """GitHub would not load it."""
    text = make.PICTURE.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"<)]+", text)) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
    assert "url(http" not in text


@pytest.mark.parametrize("page", [README, CHINESE, DOCS / "terminal.md"], ids=lambda page: page.name)
def test_the_red_example_is_what_the_command_prints_now(page: Path, printed: dict[str, str]) -> None:
    found = [block for block in blocks(page, "") if "First in tp2: FAIL: Layer 0 Attention Output" in block]
    assert found
    assert all(told(block) in told(printed["red"]) for block in found)


@pytest.mark.parametrize(
    ("page", "run", "line"),
    [
        ("comparing", "isolated", "FAIL: Layer 0 Attention Output"),
        ("terminal", "known", "KNOWN: Layer 3 KV Latent Gradient"),
        ("plugin", "plugin", "First in tp2: FAIL: Layer 2 Input Norm Output"),
    ],
)
def test_a_failure_on_a_page_is_what_its_command_prints_now(page: str, run: str, line: str, printed: dict[str, str]) -> None:
    (block,) = [
        block for block in blocks(DOCS / f"{page}.md", "") if line in block and "First in tp2: FAIL: Layer 0" not in block
    ]
    part = told(block[block.index(line) :].partition("\n...")[0])
    assert part in told(printed[run])


def test_the_spec_on_its_page_is_used_and_passes(printed: dict[str, str]) -> None:
    assert "PASS: Layer 0 Attention Output" in printed["spec"]
    assert "/ my_spec:layers /" in printed["spec"]


def test_the_check_on_its_page_is_made_for_every_layer(tmp_path: Path) -> None:
    """In a copy of Plumbline, to which it is added."""
    for folder in ("ci", "validation"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (text,) = blocks(DOCS / "own-check.md", "python")
    (tmp_path / re.findall(r"^# (\S+)", text)[0]).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "validation", "run", "--layouts", "single", "-v", "--", "-k", "my_layers"]
    environment = {**os.environ, "PYTHONPATH": "", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^PASS: (Layer \d Layer Output)", done.stdout, re.MULTILINE) == [
        f"Layer {n} Layer Output" for n in range(4)
    ]


@pytest.mark.parametrize(
    ("page", "words"),
    [("layouts", "--layouts tp3"), ("troubleshooting", "--preset mini --seq-length 16384")],
    ids=["layout", "memory"],
)
def test_a_refusal_on_a_page_is_what_the_command_says_now(page: str, words: str, tmp_path: Path) -> None:
    """But for the memory that a machine has."""
    (shown,) = re.findall(
        rf"^\$ python -m validation run {words}\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), re.M | re.S
    )
    command = [sys.executable, "-m", "validation", "run", *words.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode in (2, 3)
    available = re.compile(r"[\d.]+ GiB are available")
    assert available.sub("GiB", unwrapped(shown)) == available.sub("GiB", unwrapped(done.stderr))

"""The versions that results may be made with are those that the sessions install, each with its Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ci.releases import NEWEST, OLDER, newest_for, other_than_for
from ci.requirements import fits, of_others, required, unmet

FILES = {
    "base.txt": 'transformers>=5.17,<5.24  # 5.17 to 5.23 are run\nmegatron-core==2.0; python_version >= "3.12"\n'
    'megatron-core==1.0; python_version < "3.12"  # the newest\nnumpy\n',
    "cpu.txt": "# torch first\ntorch==2.13.0\n-r base.txt\n",
    "cuda.txt": "torch>=2.11,<2.14\n-r base.txt\n",
    "te.txt": "transformer-engine[core_cu13,pytorch]~=2.11.0\n",
}
CORE = ('megatron-core==2.0; python_version >= "3.12"', 'megatron-core==1.0; python_version < "3.12"')
ALWAYS = ("transformers<5.24,>=5.17", *CORE)


@pytest.mark.parametrize(
    ("transport", "implementation", "wanted"),
    [
        ("gloo", "local", ("torch>=2.13.0", *ALWAYS)),
        ("staged-cpu", "local", ("torch>=2.13.0", *ALWAYS)),
        ("nccl", "local", ("torch>=2.11", *ALWAYS)),
        ("staged", "local", ("torch>=2.11", *ALWAYS)),
        ("nccl", "te", ("torch>=2.11", *ALWAYS, "transformer-engine>=2.11.0")),
    ],
)
def test_versions_are_read_of_the_files_that_a_session_installs(
    tmp_path: Path, transport: str, implementation: str, wanted: tuple[str, ...]
) -> None:
    """Whole of the two that are compared, of the others the lower bound; a marker stays with its requirement."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert required(transport, implementation, tmp_path) == wanted


def test_a_library_that_is_not_compared_and_has_no_lower_bound_is_not_required(tmp_path: Path) -> None:
    for name, text in (FILES | {"te.txt": "transformer-engine<3\n"}).items():
        (tmp_path / name).write_text(text)
    assert required("nccl", "te", tmp_path) == ("torch>=2.11", *ALWAYS)


@pytest.mark.parametrize(("transport", "implementation"), [("gloo", "local"), ("nccl", "te")])
def test_this_tree_s_files_bound_every_library_that_results_tell_of(transport: str, implementation: str) -> None:
    wanted = {"torch", "transformers", "megatron-core"} | ({"transformer-engine"} if implementation == "te" else set())
    assert {Requirement(line).name for line in required(transport, implementation)} == wanted


@pytest.mark.parametrize(
    ("python", "core", "said"),
    [
        ("3.12.1", "2.0", []),
        ("3.13.0rc1", "2.0", []),
        ("3.14.0a1+", "2.0", []),
        ("3.11.7", "1.0", []),
        ("3.9.18", "1.0", []),
        ("3.12.1", "1.0", ["made with megatron-core 1.0, and ==2.0 is required with Python 3.12"]),
        ("3.11.7", "2.0", ["made with megatron-core 2.0, and ==1.0 is required with Python 3.11"]),
        ("3.11.7", "soon", ["made with megatron-core soon, and ==1.0 is required with Python 3.11"]),
    ],
)
def test_a_python_must_have_what_is_required_for_it(python: str, core: str, said: list[str]) -> None:
    assert list(unmet(CORE, {"python": python, "megatron-core": core})) == said


@pytest.mark.parametrize("python", ["soon", "", "9" * 5000, "3.12; 1"])
def test_what_goes_by_a_python_that_is_none_is_not_met(python: str) -> None:
    """What goes by none is judged as ever."""
    said = ["does not say with which Python it was made, and that of megatron-core goes by it"] * 2
    versions = {"python": python, "megatron-core": "2.0", "torch": "2.14"}
    assert list(unmet((*CORE, "torch>=2.13", "a<2"), versions)) == [*said, "made with a absent, and <2 is required"]
    assert list(unmet(CORE, {"megatron-core": "2.0"})) == said


def test_a_version_fits_what_is_wanted_of_it() -> None:
    """Releases before a release count, and what is no version never does."""
    assert fits("2.0rc1", ">=1.0")
    assert not fits("2.0rc1", ">=2.0")
    for found, wanted in (("absent", ">=1.0"), ("2.0", "soon"), ("9" * 5000, ">=1.0")):
        assert not fits(found, wanted)


def test_requirements_of_other_libraries_are_kept_as_they_are() -> None:
    assert of_others(ALWAYS, ["transformers", "torch"]) == CORE
    assert of_others(ALWAYS, []) == ALWAYS


@pytest.mark.parametrize(("minor", "release"), [(11, OLDER), (12, NEWEST), (13, NEWEST), (14, NEWEST)])
def test_each_python_is_given_the_newest_release_that_it_can_have(minor: int, release: object) -> None:
    """Requirements and the table of releases say the same."""
    cores = [line for line in required("gloo", "local") if line.startswith("megatron-core")]
    python, own = f"3.{minor}.1", newest_for((3, minor)).megatron_core
    assert newest_for((3, minor)) is release
    assert list(unmet(cores, {"python": python, "megatron-core": own})) == []
    assert len(list(unmet(cores, {"python": python, "megatron-core": other_than_for((3, minor)).megatron_core}))) == 1

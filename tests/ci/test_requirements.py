"""The versions that results may be made with are those that the sessions install."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.requirements import required

FILES = {
    "base.txt": "transformers>=5.17,<5.24  # 5.17 to 5.23 are run\nmegatron-core==0.16.1\nnumpy\n",
    "cpu.txt": "# torch first\ntorch==2.13.0\n-r base.txt\n",
    "cuda.txt": "torch>=2.11,<2.14\n-r base.txt\n",
    "te.txt": "transformer-engine[core_cu13,pytorch]~=2.11.0\n",
}
ALWAYS = {"transformers": "<5.24,>=5.17", "megatron-core": "==0.16.1"}


@pytest.mark.parametrize(
    ("transport", "implementation", "wanted"),
    [
        ("gloo", "local", {"torch": ">=2.13.0", **ALWAYS}),
        ("staged-cpu", "local", {"torch": ">=2.13.0", **ALWAYS}),
        ("nccl", "local", {"torch": ">=2.11", **ALWAYS}),
        ("staged", "local", {"torch": ">=2.11", **ALWAYS}),
        ("nccl", "te", {"torch": ">=2.11", **ALWAYS, "transformer-engine": ">=2.11.0"}),
    ],
)
def test_versions_are_read_of_the_files_that_a_session_installs(
    tmp_path: Path, transport: str, implementation: str, wanted: dict[str, str]
) -> None:
    """Whole of the two that are compared, of the others the lower bound."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert required(transport, implementation, tmp_path) == wanted


@pytest.mark.parametrize(("transport", "implementation"), [("gloo", "local"), ("nccl", "te")])
def test_this_tree_s_files_bound_every_library_that_results_tell_of(transport: str, implementation: str) -> None:
    wanted = {"torch", "transformers", "megatron-core"} | ({"transformer-engine"} if implementation == "te" else set())
    assert set(required(transport, implementation)) == wanted

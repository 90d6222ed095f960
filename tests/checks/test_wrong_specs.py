"""A layer spec that is none: seen in a process that has megatron-core, and said in one sentence before there are ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.conftest import Output, outputs_of

EXPECTED = "give package.module:function, a function (config, vp_stage) -> block spec"
MISTAKES = {
    "os:path": "path of os is a module",
    "os:nothing": "nothing of os is not there",
    "tests.checks.no_specs:one_parameter": "it cannot be called with two arguments (too many positional arguments)",
    "tests.checks.no_specs:three_parameters": "it cannot be called with two arguments (missing a required argument: 'more')",
    "tests.checks.not_importable:layers": "importing tests.checks.not_importable raised ImportError('no licence')",
}


@pytest.fixture(scope="module")
def outputs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Each as `--implementation`, of a process that imports once."""
    return outputs_of({name: ["--implementation", name] for name in MISTAKES}, cache, tmp_path_factory)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_spec_that_is_none_is_wrong_usage(name: str, outputs: dict[str, Output]) -> None:
    """What is named, what it is, and what is expected; no traceback, no check that reports, no file."""
    said = f"error: --implementation {name}: {MISTAKES[name]}; {EXPECTED}\n"
    assert outputs[name].text == said
    assert outputs[name].code == 2
    assert list(outputs[name].results.iterdir()) == []

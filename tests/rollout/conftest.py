"""A model's folder, and what a right engine says of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.rollout import engine
from validation import cli
from validation.rollout import command
from validation.rollout.dump import Said


@dataclass(frozen=True)
class Output:
    """What a comparison left: exit code, lines, and the document of `--format json`."""

    code: int
    text: str
    document: dict[str, Any]

    @property
    def sentence(self) -> str:
        """The first of those that say which side is wrong."""
        return str(self.document["says"][0])

    def status(self, title: str) -> str:
        """What came of a check."""
        (found,) = [one["status"] for one in self.document["logprobs"] if one["title"] == title]
        return str(found)


@dataclass(frozen=True)
class Bench:
    """A model's folder, sequences, and the lines that a right engine writes of them."""

    folder: Path
    said: list[Said]
    right: list[dict[str, Any]]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two layers of tiny, one of them with experts."""
    folder = engine.write_folder(tmp_path_factory.mktemp("rollout") / "model")
    said = engine.drawn()
    return Bench(folder, said, engine.lines(folder, said))


def compared(capsys: pytest.CaptureFixture[str], file: Path, folder: Path, *words: str) -> Output:
    """`python -m validation logprobs FILE --hf-model-path FOLDER WORDS`, in this process."""
    given = cli._parser().parse_args(["logprobs", str(file), "--hf-model-path", str(folder), *words])
    given.document = {}
    code = command.run(given, "python -m validation logprobs")
    return Output(code, capsys.readouterr().out, given.document)

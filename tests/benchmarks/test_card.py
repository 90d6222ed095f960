"""What is to be measured on a card: commands that exist, each on its own cores, and a table of what came of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from benchmarks import card
from validation.case.preflight import RULES
from validation.run.options import parsed

LISTED = card.jobs(card.LIST, "")


@pytest.mark.parametrize("job", [job for job in LISTED if "validation run" in job.words], ids=lambda job: job.name)
def test_each_case_of_the_list_is_one_that_can_be_asked_for(job: card.Job) -> None:
    cases = parsed(job.words.format(out="out").split()[3:]).cases
    assert cases
    assert [sentence for case in cases for rule in RULES if (sentence := rule(case))] == []


class Clock:
    """A clock by which the time is up when a file is there, and no sooner."""

    sleep = staticmethod(time.sleep)

    def __init__(self, file: Path) -> None:
        self._file = file

    def monotonic(self) -> float:
        """Its seconds."""
        return 60.0 if self._file.exists() else 0.0


def test_what_ends_what_fails_and_what_takes_too_long_is_told_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "time", Clock(tmp_path / "long" / "began"))
    rows = [
        {"name": "sound", "why": "w", "words": "-c print({cores},open('{out}/left','w').write('x'))", "cores": 1},
        {"name": "red", "why": "w", "words": "-c exit(1)", "cores": 1},
        {"name": "long", "why": "w", "words": "-c open('{out}/began','w'),__import__('time').sleep(600)", "cores": 1},
        {"name": "behind", "why": "w", "words": "-c print()", "cores": len(os.sched_getaffinity(0))},
    ]
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(rows))
    words = ["--out", str(tmp_path), "--list", str(tmp_path / "list.yaml"), "--seconds", "60", "--cores", "1"]
    assert card.main([*words, "--only", "sound,red,long,behind"]) == 1
    said = {one["name"]: one["said"] for one in json.loads((tmp_path / "card.json").read_text())}
    assert said == {"sound": "exit code 0", "red": "exit code 1", "long": "interrupted: no time left", "behind": "not run"}
    assert (tmp_path / "sound" / "left").read_text() == "x"
    assert (tmp_path / "sound" / "printed.txt").read_text().splitlines()[1:] == ["1 1"]
    assert "| long | interrupted: no time left | " in capfd.readouterr().out


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match="--only sed is unknown; known are flash-attention-4, "):
        card.jobs(card.LIST, "sed")

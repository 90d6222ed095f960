"""One node of two, in a process of its own: `python -m tests.nodes.one RANK HOST PORT FOLDER SILENCE END`.

Its ranks need no megatron-core (tests/run/nodes/light.py). Prints a line of JSON: exit code, sentence, what the ranks found.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path

from tests.nodes import reducing
from tests.run.nodes.pair import stored
from validation.case.errors import PlumblineError
from validation.run import entry
from validation.run.launch import RunBroke
from validation.run.nodes.channel import Lost
from validation.run.nodes.follower import Follower
from validation.run.nodes.head import Head
from validation.run.options import Settings, parsed

TIMEOUT = 240.0


def settings(rank: int, host: str, port: str, home: Path) -> Settings:
    """Those of a node."""
    where = ("--nnodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", f"{host}:{port}", "--timeout", str(TIMEOUT))
    return parsed(("--tp", "2", *where), home)


def lead(given: Settings, folder: Path, silence: float, end: str) -> dict[str, object]:
    """The head, with one run."""
    head = Head(given, "", silence)
    run = folder / "run"
    run.mkdir()
    said: dict[str, object] = {}
    try:
        head.gather(TIMEOUT)
        arguments = (end, str(run), str(stored(given.home)), TIMEOUT, str(folder), "")
        said = {"code": 0, "found": head.launch(reducing.rank, arguments, 2, run, TIMEOUT)}
    except (RunBroke, PlumblineError) as error:
        said = {"code": int(error.exit_code), "sentence": str(error)}
    head.over(int(str(said["code"])))
    return {**said, "notes": head.notes}


def follow(given: Settings, silence: float) -> dict[str, object]:
    """The other node."""
    follower = Follower(given, "", silence)
    try:
        code, sentence = follower.follow()
    except Lost as error:
        return {"code": int(error.exit_code), "sentence": str(error)}
    else:
        return {"code": code, "sentence": sentence}
    finally:
        follower.close()


def main() -> None:
    """What the words say."""
    rank, host, port, folder, silence, end = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.set_forkserver_preload(["torch.distributed.elastic.multiprocessing.api", "tests.nodes.reducing"])
    vars(entry)["rank"] = reducing.rank
    given = settings(int(rank), host, port, Path(folder) / "cache")
    said = follow(given, float(silence)) if int(rank) else lead(given, Path(folder), float(silence), end)
    print(json.dumps(said), flush=True)  # noqa: T201 - whoever has started it reads this
    os._exit(0)  # a thread may wait for a node that is gone


if __name__ == "__main__":
    main()

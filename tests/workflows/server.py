"""GitHub's API as far as the pipeline asks it, on this machine. The first word of the path says what the answers are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

BASELINE = 41
REMOVED = 40
"""Of the two the older one, with a session that is no more."""
_MOST = 100
"""Of a list that GitHub gives at once."""


def _run(number: int, repository: str, event: str) -> dict[str, Any]:
    return {"id": number, "event": event, "head_branch": "main", "head_repository": {"full_name": repository}}


_FORKS = [_run(1043 - number, "somebody/plumbline", "pull_request") for number in range(120)]
_FORKS.append(_run(900, "somebody/plumbline", "schedule"))
_OURS = _run(BASELINE, "plumbline/plumbline", "schedule")
_LATER = [_run(BASELINE + 2, "plumbline/plumbline", "workflow_dispatch"), _run(BASELINE + 1, "plumbline/plumbline", "push")]
RUNS = {
    "baseline": [*_FORKS, *_LATER, _OURS],
    "expired": [*_FORKS, *_LATER],
    "removed": [_run(REMOVED, "plumbline/plumbline", "schedule")],
}
"""The workflow's green runs, the newest first. A fork's branch may be called main, too, and has more of them than a page."""
ARTIFACTS = {
    REMOVED: [{"name": "baseline", "expired": False}],
    BASELINE: [{"name": "baseline", "expired": False}],
    BASELINE + 1: [{"name": "baseline", "expired": True}, {"name": "report", "expired": False}],
}
"""What the runs still have. One by hand kept nothing."""
RULES = {"no-reviewers": [{"type": "branch_policy"}]}
_REVIEWED = [{"type": "required_reviewers", "reviewers": [{"type": "User"}]}]


def _parts(path: str) -> tuple[str, dict[str, str]]:
    """Path and query."""
    split = urlsplit(path)
    return split.path, {name: values[0] for name, values in parse_qs(split.query).items()}


def _found(answers: str, path: str, query: dict[str, str]) -> dict[str, Any] | None:
    if path == "actions/workflows/nightly.yml/runs" and (query["branch"], query["status"]) == ("main", "success"):
        runs = [run for run in RUNS.get(answers, _FORKS) if run["event"] == query.get("event", run["event"])]
        return {"workflow_runs": runs[: min(int(query["per_page"]), _MOST)]}
    if path == "environments/gpu-forks":
        return {"protection_rules": RULES.get(answers, _REVIEWED)}
    if path.startswith("actions/runs/") and path.endswith("/artifacts"):
        kept = ARTIFACTS.get(int(path.split("/")[2]), [])
        return {"artifacts": [artifact for artifact in kept if artifact["name"] == query["name"]]}
    return None


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers, _, path = self.path.removeprefix("/").partition("/")
        if answers == "forbidden":
            return self.send_error(403)
        if answers == "absent" or self.headers["Authorization"] != "Bearer a token":
            return self.send_error(404)
        found = _found(answers, *_parts(path.removeprefix("repos/plumbline/plumbline/")))
        if found is None:
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())
        return None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class calls it that
        """Says nothing."""


@contextmanager
def serving() -> Iterator[str]:
    """The address of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

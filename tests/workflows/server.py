"""GitHub's API as far as the pipeline asks it, on this machine. The first word of the path says what the answers are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

BASELINE = 41


def _run(number: int, repository: str, event: str) -> dict[str, Any]:
    return {"id": number, "event": event, "head_branch": "main", "head_repository": {"full_name": repository}}


_FORKS = [_run(43, "somebody/plumbline", "pull_request"), _run(42, "somebody/plumbline", "schedule")]
_OURS = _run(BASELINE, "plumbline/plumbline", "schedule")
RUNS = {"baseline": [*_FORKS, _OURS]}
"""The workflow's green runs, the newest first. A fork's branch may be called main, too."""
RULES = {"no-reviewers": [{"type": "branch_policy"}]}
_REVIEWED = [{"type": "required_reviewers", "reviewers": [{"type": "User"}]}]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers, _, path = self.path.removeprefix("/").partition("/")
        if answers == "forbidden":
            return self.send_error(403)
        if answers == "absent" or self.headers["Authorization"] != "Bearer a token":
            return self.send_error(404)
        found: dict[str, Any]
        if path.startswith("repos/plumbline/plumbline/actions/workflows/nightly.yml/runs?branch=main&status=success"):
            found = {"workflow_runs": RUNS.get(answers, _FORKS)}
        elif path == "repos/plumbline/plumbline/environments/gpu-forks":
            found = {"protection_rules": RULES.get(answers, _REVIEWED)}
        else:
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

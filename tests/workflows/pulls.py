"""GitHub's API as far as a comment in a pull request needs it, on this machine: it keeps what is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

HERE = "plumbline/plumbline"
FORK = "somebody/plumbline"
COMMIT = "c0ffee" + "0" * 34
RUN = 77
BOT = {"login": "github-actions[bot]", "type": "Bot"}


def pull(number: int = 7, of: str = HERE, branch: str = "topic", commit: str = COMMIT, base: str = HERE) -> dict[str, Any]:
    """A pull request that is open."""
    head = {"ref": branch, "sha": commit, "repo": {"full_name": of}}
    return {"number": number, "state": "open", "head": head, "base": {"repo": {"full_name": base}}}


def event(of: str = HERE, conclusion: str = "failure", **changed: Any) -> dict[str, Any]:
    """What GitHub tells the workflow of a run that has ended. It names no pull request of a fork."""
    run = {
        "id": RUN,
        "name": "Pull request",
        "event": "pull_request",
        "conclusion": conclusion,
        "head_sha": COMMIT,
        "head_branch": "topic",
        "head_repository": {"full_name": of},
        "run_attempt": 1,
        "pull_requests": [],
    }
    return {"action": "completed", "workflow_run": {**run, **changed}}


@dataclass
class Pulls:
    """What is there: pull requests, comments, the jobs of the run; `asked` are method and path of every question."""

    pulls: list[dict[str, Any]] = field(default_factory=lambda: [pull()])
    comments: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    refused: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, query: dict[str, str], content: Any) -> Any:
        """The answer, None where there is nothing of that name."""
        page = slice((int(query.get("page", "1")) - 1) * 100, int(query.get("page", "1")) * 100)
        if (method, path) == ("GET", "pulls"):
            owner, _, branch = query["head"].partition(":")
            found = [one for one in self.pulls if one["head"]["ref"] == branch and _owner(one) == owner]
            return [one for one in found if one["state"] == query["state"]][page]
        if (method, path) == ("GET", f"actions/runs/{RUN}/attempts/1/jobs"):
            return {"total_count": len(self.jobs), "jobs": self.jobs[page]}
        if issue := re.fullmatch(r"issues/(\d+)/comments", path):
            mine = [one for one in self.comments if one["issue"] == int(issue[1])]
            return mine[page] if method == "GET" else self._made(int(issue[1]), content["body"])
        if method == "PATCH" and (issue := re.fullmatch(r"issues/comments/(\d+)", path)):
            return self._changed(int(issue[1]), content["body"])
        return None

    def write(self, text: str, user: dict[str, str], issue: int = 7) -> None:
        """Somebody comments."""
        self.comments.append({"id": 1000 + len(self.comments), "issue": issue, "body": text, "user": user})

    def _made(self, issue: int, text: str) -> Any:
        if issue not in [one["number"] for one in self.pulls]:
            return None
        self.write(text, BOT, issue)
        return self.comments[-1]

    def _changed(self, number: int, text: str) -> Any:
        found = next((one for one in self.comments if one["id"] == number), None)
        if found is not None:
            found["body"] = text
        return found


def _owner(one: dict[str, Any]) -> str:
    return str((one["head"]["repo"] or {"full_name": ""})["full_name"]).partition("/")[0]


@contextmanager
def serving(state: Pulls) -> Iterator[str]:
    """The address of it."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            split = urlsplit(self.path)
            path = split.path.removeprefix(f"/repos/{HERE}/")
            state.asked.append(f"{self.command} {path}")
            if self.command in state.refused or self.headers["Authorization"] != "Bearer a token":
                return self.send_error(403)
            length = int(self.headers.get("Content-Length") or 0)
            content = json.loads(self.rfile.read(length)) if length else None
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            answer = state.answer(self.command, path, query, content)
            if answer is None:
                return self.send_error(404)
            self.send_response(201 if self.command == "POST" else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())
            return None

        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def do_PATCH(self) -> None:
            self._reply()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class calls it that
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

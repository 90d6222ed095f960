"""Questions to GitHub's API, by the token of the job, and the one thing that is written there: a comment (ci/comment.py)."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from validation.case.errors import EnvironmentMissing

_SECONDS = 20
_PAGE = 100
"""The most that GitHub gives of a list at once."""
_MOST_PAGES = 30


def ask(*path: str, environment: Mapping[str, str] = os.environ, **query: str) -> Any:
    """The answer below /repos/OWNER/NAME of the job's own repository, None where there is nothing of that name."""
    return _answer("GET", path, environment, query)


def ask_all(*path: str, key: str = "", environment: Mapping[str, str] = os.environ, **query: str) -> Iterator[Any]:
    """The entries of a list that GitHub gives in pages, 3,000 at most; `key` is the list's name where the answer is no list."""
    for page in range(1, _MOST_PAGES + 1):
        answer = ask(*path, environment=environment, **query, per_page=str(_PAGE), page=str(page))
        found = answer.get(key) if key and isinstance(answer, dict) else answer
        if not isinstance(found, list):
            return
        yield from found
        if len(found) < _PAGE:
            return


def send(method: str, *path: str, content: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Any:
    """Write something there (POST makes it, PATCH changes it). The answer, None where there is nothing of that name."""
    return _answer(method, path, environment, {}, json.dumps(content).encode())


def _answer(
    method: str, path: tuple[str, ...], environment: Mapping[str, str], query: Mapping[str, str], content: bytes | None = None
) -> Any:
    try:
        url = f"{environment['GITHUB_API_URL']}/repos/{environment['GITHUB_REPOSITORY']}"
        headers = {"Authorization": f"Bearer {environment['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"}
    except KeyError as missing:
        raise EnvironmentMissing(f"{missing.args[0]} is not set; a job on GitHub has it, give GITHUB_TOKEN as env") from None
    words = "".join(f"/{quote(part, safe='')}" for part in path) + (f"?{urlencode(query)}" if query else "")
    request = urllib.request.Request(url + words, data=content, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise EnvironmentMissing(f"GitHub answers {error.code} to {words}; the job's permissions may be too few") from None
    except (OSError, ValueError) as error:
        raise EnvironmentMissing(f"GitHub does not answer to {words} ({error}); run the job again") from None

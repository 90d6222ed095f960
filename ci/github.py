"""Questions to GitHub's API, by the token of the job. Nothing is ever written there."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from validation.case.errors import EnvironmentMissing

_SECONDS = 20


def ask(*path: str, environment: Mapping[str, str] = os.environ, **query: str) -> Any:
    """The answer below /repos/OWNER/NAME of the job's own repository, None where there is nothing of that name."""
    try:
        url = f"{environment['GITHUB_API_URL']}/repos/{environment['GITHUB_REPOSITORY']}"
        headers = {"Authorization": f"Bearer {environment['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"}
    except KeyError as missing:
        raise EnvironmentMissing(f"{missing.args[0]} is not set; a job on GitHub has it, give GITHUB_TOKEN as env") from None
    words = "".join(f"/{quote(part, safe='')}" for part in path) + (f"?{urlencode(query)}" if query else "")
    try:
        with urllib.request.urlopen(urllib.request.Request(url + words, headers=headers), timeout=_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise EnvironmentMissing(f"GitHub answers {error.code} to {words}; the job's permissions may be too few") from None
    except (OSError, ValueError) as error:
        raise EnvironmentMissing(f"GitHub does not answer to {words} ({error}); run the job again") from None

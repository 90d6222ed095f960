"""uv in place of pip, with the settings that pip has: nox installs with it where it is, for the time that it saves.

uv reads neither pip.conf nor PIP_INDEX_URL, so it is handed what pip would go by. If uv has no equal of a setting, pip installs
and nox says why.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_SECTIONS = ("global", "install", ":env:")
"""Where pip takes the settings of `pip install` from; the later ones count."""
_IGNORED = frozenset(
    (
        *("config-file", "disable-pip-version-check", "no-python-version-warning", "root-user-action", "require-virtualenv"),
        *("no-input", "no-color", "progress-bar", "quiet", "verbose", "log", "debug", "no-compile", "compile"),
    )
)
"""What does not change which files are installed."""
_WORDS = {
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
"""Settings with several values, and uv's word before each."""
_SWITCHES = {"no-index": "--no-index", "no-cache-dir": "--no-cache"}
_VARIABLES = {
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
SAME_CHOICE = ("--index-strategy", "unsafe-best-match")
"""pip takes the best version of all indexes; uv by default that of the first that has the package."""


class NotTheSame(Exception):
    """A setting of pip's that uv has no equal of."""


@dataclass(frozen=True)
class Settings:
    """What pip's settings are for uv: words of `uv pip install`, and variables."""

    words: tuple[str, ...] = SAME_CHOICE
    variables: Mapping[str, str] = field(default_factory=dict)


def settings(listed: str) -> Settings:
    """The settings that `pip config list` tells. Raises NotTheSame."""
    found = _read(listed)
    return Settings((*SAME_CHOICE, *_words(found)), dict(_variables(found)))


def _read(listed: str) -> dict[str, str]:
    """Name -> value, of those that concern `pip install`."""
    found: dict[tuple[str, str], str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in _SECTIONS:
            found[section, name] = _value(name, value)
    return {name: value for of in _SECTIONS for (section, name), value in found.items() if section == of}


def _value(name: str, text: str) -> str:
    """The value as it is; pip writes it as Python does."""
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        raise NotTheSame(name) from None


def _words(found: Mapping[str, str]) -> Iterator[str]:
    for name, value in found.items():
        if name == "index-url":
            yield from ("--default-index", value)
        elif name in _WORDS:
            yield from (word for one in value.split() for word in (_WORDS[name], os.path.expanduser(one)))
        elif name in _SWITCHES:
            yield from [_SWITCHES[name]] if _is_true(name, value) else []
        elif name not in _IGNORED and name not in _VARIABLES and name != "cache-dir":
            raise NotTheSame(name)


def _is_true(name: str, value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise NotTheSame(name)
    return value.lower() in _TRUE


def _variables(found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, variable in _VARIABLES.items():
        if name in found:
            yield variable, os.path.expanduser(found[name])
    if "cache-dir" in found:
        # It is named where the usual place has no room.
        yield "UV_CACHE_DIR", os.path.join(os.path.expanduser(found["cache-dir"]), "uv")

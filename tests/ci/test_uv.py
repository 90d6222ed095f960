"""What pip goes by, uv is told: nox installs the same with either, or with pip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci.uv import SAME_CHOICE, NotTheSame, settings


def told(*lines: str) -> tuple[list[str], dict[str, str]]:
    """What uv is told of these lines of `pip config list`, without what it is always told."""
    found = settings("".join(f"{line}\n" for line in lines))
    assert found.words[:2] == SAME_CHOICE == ("--index-strategy", "unsafe-best-match")
    return list(found.words[2:]), dict(found.variables)


def test_without_settings_only_the_choice_is_pips() -> None:
    assert told() == ([], {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("global.index-url='https://a.example/simple'", ["--default-index", "https://a.example/simple"]),
        ("global.index-url='https://a.example/?token=a=b'", ["--default-index", "https://a.example/?token=a=b"]),
        ("global.extra-index-url='https://a file:///b'", ["--index", "https://a", "--index", "file:///b"]),
        ("global.extra-index-url='\\nhttps://a\\nhttps://b'", ["--index", "https://a", "--index", "https://b"]),
        ("install.find-links='/a /b'", ["--find-links", "/a", "--find-links", "/b"]),
        (":env:.constraint='a.txt'", ["--constraint", "a.txt"]),
        ("global.trusted-host='a b:8080'", ["--allow-insecure-host", "a", "--allow-insecure-host", "b:8080"]),
        ("global.no-index='true'", ["--no-index"]),
        ("global.no-index='1'", ["--no-index"]),
        ("global.no-index='YES'", ["--no-index"]),
        ("global.no-index='on'", ["--no-index"]),
        ("global.no-index='false'", []),
        ("global.no-index='off'", []),
        ("global.no-index='0'", []),
        ("global.no-index='no'", []),
        ("global.no-index=''", []),
        ("global.no-cache-dir='true'", ["--no-cache"]),
        ("global.disable-pip-version-check='1'", []),
        (":env:.config-file='/dev/null'", []),
        ("list.format='columns'", []),
        ("download.pre='true'", []),
    ],
)
def test_a_setting_is_words(line: str, words: list[str]) -> None:
    assert told(line) == (words, {})


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("global.cert='/etc/ca.crt'", {"SSL_CERT_FILE": "/etc/ca.crt"}),
        (":env:.default-timeout='180'", {"UV_HTTP_TIMEOUT": "180"}),
        ("global.timeout='60'", {"UV_HTTP_TIMEOUT": "60"}),
        ("global.retries='7'", {"UV_HTTP_RETRIES": "7"}),
        ("global.cache-dir='/scratch/pip'", {"UV_CACHE_DIR": "/scratch/pip/uv"}),
    ],
)
def test_a_setting_is_a_variable(line: str, variables: dict[str, str]) -> None:
    assert told(line) == ([], variables)


def test_a_folder_below_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell starts uv."""
    monkeypatch.setenv("HOME", "/home/a")
    assert told("global.find-links='~/wheels'") == (["--find-links", "/home/a/wheels"], {})
    assert told("global.cert='~/ca.crt'", "global.cache-dir='~/c'")[1] == {
        "SSL_CERT_FILE": "/home/a/ca.crt",
        "UV_CACHE_DIR": "/home/a/c/uv",
    }


def test_the_nearer_setting_counts() -> None:
    """A variable before `[install]`, and that before `[global]`, in whichever order pip lists them."""
    every = [":env:.index-url='https://c'", "install.index-url='https://b'", "global.index-url='https://a'"]
    assert told(*every)[0] == ["--default-index", "https://c"]
    assert told(*every[1:])[0] == ["--default-index", "https://b"]
    assert told(*every[:0:-1])[0] == ["--default-index", "https://b"]
    assert told("global.extra-index-url='https://a'", ":env:.extra-index-url='https://b'")[0] == ["--index", "https://b"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("global.proxy='http://a'", "proxy"),
        ("install.only-binary=':all:'", "only-binary"),
        ("global.pre='true'", "pre"),
        (":env:.target='/a'", "target"),
        ("global.no-index='perhaps'", "no-index"),
        ("global.index-url=https://a", "index-url"),
    ],
)
def test_a_setting_that_uv_has_no_equal_of_is_named(line: str, name: str) -> None:
    with pytest.raises(NotTheSame, match=f"^{name}$"):
        told("global.cert='/a'", line)


def test_what_pip_itself_lists_is_understood(tmp_path: Path) -> None:
    """A configuration file and variables, as pip reads them."""
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://a.example/simple\nextra-index-url =\n    https://b\n    https://c\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    variables = {**kept, "PIP_CONFIG_FILE": str(file), "PIP_FIND_LINKS": "/wheels /more", "PIP_DEFAULT_TIMEOUT": "9"}
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    words, found = told(*(line for line in listed.splitlines() if not line.startswith(("site.", "user."))))
    assert words[words.index("--default-index") + 1] == "https://a.example/simple"
    assert [words[place + 1] for place, word in enumerate(words) if word == "--index"] == ["https://b", "https://c"]
    assert [words[place + 1] for place, word in enumerate(words) if word == "--find-links"] == ["/wheels", "/more"]
    assert found["UV_HTTP_TIMEOUT"] == "9"

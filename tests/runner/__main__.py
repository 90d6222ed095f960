"""`python -m tests.runner`: run the commands of docs/runner.md in a fresh Debian, as far as a machine without a driver can.

It needs root and debootstrap, and some 5 GB below --root. The fresh root sees this machine's network. A package index that is
set up on this machine is shared with it by --share.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.runner.steps import PAGE, script, steps
from validation.case.errors import ExitCode

ROOT = Path(__file__).parents[2]
_REPOSITORY = "/srv/plumbline.git"
_PACKAGES = "ca-certificates,sudo"
"""What Ubuntu's own image has, and debootstrap's smallest variant has not."""


def main() -> int:
    """0 where every step ends as the page says, 1 where one does not, 3 where there can be no fresh root."""
    options = _options()
    if os.geteuid() or not shutil.which("debootstrap"):
        sys.stderr.write("error: a fresh root needs the user root, and debootstrap: apt-get install debootstrap\n")
        return int(ExitCode.ENVIRONMENT)
    if not (options.root / "etc" / "os-release").exists():
        _made(options)
    _filled(options.root)
    written = script(steps(PAGE.read_text(encoding="utf-8"))).replace("REPOSITORY", _REPOSITORY)
    code = subprocess.run(_inside(options.root, options.share, written), check=False).returncode
    sys.stdout.write(
        f"===== docs/runner.md: {'every step ended as it says' if not code else 'a step did not end as it says'}\n"
    )
    return int(ExitCode.PASS if not code else ExitCode.FAIL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.runner", description=__doc__)
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="the folder of the fresh root; made if it is not there"
    )
    parser.add_argument("--suite", default="bookworm", help="the Debian or Ubuntu release (default bookworm)")
    parser.add_argument("--mirror", default="", metavar="URL", help="where packages come from (default: debootstrap's own)")
    parser.add_argument(
        "--share", action="append", default=[], type=Path, metavar="PATH", help="a file or folder of this machine"
    )
    return parser.parse_args()


def _made(options: argparse.Namespace) -> None:
    mirror = [options.mirror] if options.mirror else []
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", options.suite, str(options.root), *mirror]
    subprocess.run(command, check=True)


def _filled(root: Path) -> None:
    """Plumbline as it is committed, where the page has REPOSITORY, and this machine's way to find hosts."""
    repository = root / _REPOSITORY.lstrip("/")
    shutil.rmtree(repository, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(repository)], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")


def _inside(root: Path, shared: list[Path], written: str) -> list[str]:
    """A shell of its own processes and mounts, which end with it."""
    lines = [f"mount --rbind /dev {shlex.quote(str(root / 'dev'))}"]
    for path in (one.resolve() for one in shared):
        place = root / str(path).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if path.is_dir() else place.touch()
        lines.append(f"mount --bind -o ro {shlex.quote(str(path))} {shlex.quote(str(place))}")
    lines.append(f"exec chroot {shlex.quote(str(root))} /usr/bin/env --chdir=/root HOME=/root bash -c {shlex.quote(written)}")
    isolated = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={root / 'proc'}"]
    return [*isolated, "bash", "-euc", "\n".join(lines)]


if __name__ == "__main__":
    sys.exit(main())

"""What hatchling asks while it builds: put into the package which commit it is made of, and the digest of each of its files.

An installed package is no checkout. Results name its commit, and say whether its files are still those (ci/installed.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilder

_BUILT = "plumbline/build.json"


class Hook(BuildHookInterface):
    """Adds `plumbline/build.json` to wheel and sdist; an editable installation stays a checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write it where it is in nobody's way: in the checkout it would count as a changed file."""
        if version == "editable":
            return
        root = Path(self.root)
        number, self._file = tempfile.mkstemp(suffix=".json", prefix="plumbline-build-")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump(built(root, self.metadata.version), file, indent=1)
        build_data["force_include"][self._file] = _BUILT

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """It is in the archive now."""
        if version != "editable":
            os.remove(self._file)


def built(root: Path, version: str) -> dict[str, Any]:
    """What a package of the tree in `root` says of itself: `version`, `commit`, `dirty` as in results, and `files`."""
    files = _digests(root)
    if (root / "PKG-INFO").is_file():
        # A source distribution, which knows its commit, and what its files were.
        before: dict[str, Any] = json.loads((root / _BUILT).read_text(encoding="utf-8"))
        dirty = before["dirty"] if before["files"] == files else "true"
        return {"version": version, "commit": before["commit"], "dirty": dirty, "files": files}
    told = _facts(root)
    return {"version": version, "commit": told.get("commit", ""), "dirty": told["dirty"], "files": files}


def _facts(root: Path) -> dict[str, str]:
    sys.path.insert(0, str(root))
    from ci import commit

    return commit.facts(root, {name: value for name, value in os.environ.items() if name == commit.VARIABLE})


def _digests(root: Path) -> dict[str, str]:
    """The SHA-256 of each file of a wheel, by its path below `plumbline`."""
    included = WheelBuilder(str(root)).recurse_selected_project_files()
    return {
        os.path.relpath(one.distribution_path, "plumbline"): hashlib.sha256(Path(one.path).read_bytes()).hexdigest()
        for one in included
    }

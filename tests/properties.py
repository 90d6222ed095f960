"""What the property tests share: hypothesis as they use it, mutations of what is right, and how a process is held to memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "plumbline-hypothesis")  # not in the tree
ROOT = Path(__file__).parents[1]
EXAMPLES = int(os.environ.get("PLUMBLINE_EXAMPLES", "100"))
"""Of each property. `PLUMBLINE_EXAMPLES=50000 python -m pytest tests -k properties` looks for longer."""

quick = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES < 1000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)
"""The same examples in every run, no time limit on one, and nothing kept in the tree."""

few = settings(quick, max_examples=max(1, EXAMPLES // 6))
"""For what reads a whole checkpoint."""

NUMBERS = (0, -1, 1, 2, 1 << 31, 10**12, 10**30, -(10**18), 0.5, 1e300, -0.0)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=9),
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)
"""Any value of JSON, small."""


@st.composite
def changed_bytes(draw: st.DrawFn, right: bytes) -> bytes:
    """Right bytes with something wrong in one place: changed, cut off, left out, said twice or put in."""
    place = draw(st.integers(0, len(right)))
    length = draw(st.integers(0, 12))
    new = draw(st.binary(max_size=8))
    how = draw(st.sampled_from(("replace", "cut", "twice", "many")))
    if how == "cut":
        return right[:place]
    if how == "twice":
        return right[: place + length] + right[place:]
    if how == "many":
        return right[:place] + right[place : place + length] * 200 + right[place:]
    return right[:place] + new + right[place + length :]


@st.composite
def changed_json(draw: st.DrawFn, right: Any) -> Any:
    """A JSON value with another value in one place, however deep, or with a name more or less."""
    if not isinstance(right, (dict, list)) or not right or draw(st.integers(0, 5)) == 0:
        return draw(anything)
    if isinstance(right, list):
        place = draw(st.integers(0, len(right) - 1))
        return [*right[:place], draw(changed_json(right[place])), *right[place + 1 :]]
    name = draw(st.sampled_from(sorted(right)))
    how = draw(st.sampled_from(("change", "change", "change", "drop", "rename")))
    kept = {word: value for word, value in right.items() if word != name}
    if how == "drop":
        return kept
    return kept | ({name: draw(changed_json(right[name]))} if how == "change" else {draw(st.text(max_size=8)): right[name]})


def in_a_process(code: str, *words: str, mebibytes: int) -> subprocess.CompletedProcess[str]:
    """Run Python with no more than so much memory beside what its imports take; a longer answer than 60 s is none."""
    held = (
        "import resource, sys\n"
        "def hold(mebibytes):\n"
        "    pages = int(open('/proc/self/statm').read().split()[0])\n"
        "    most = pages * resource.getpagesize() + (mebibytes << 20)\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", held + code.replace("HOLD", f"hold({mebibytes})"), *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )

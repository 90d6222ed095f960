"""The picture of error against floor over the layers is that of its table, and the table that of a run's results."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
RESULTS = """<testsuites><testsuite name="one">
<testcase classname="plumbline.one.layers" name="Layer 10 Layer Output"><properties>
<property name="rel_error" value="0.01"/><property name="floor" value="0.02"/></properties></testcase>
<testcase classname="plumbline.one.layers" name="MTP 0 Layer Output"><properties>
<property name="rel_error" value="0.02"/><property name="floor" value="0.03"/></properties></testcase>
<testcase classname="plumbline.one.layers" name="Layer 2 Layer Output"><properties>
<property name="rel_error" value="0.001"/><property name="floor" value="0.002"/></properties></testcase>
<testcase classname="plumbline.one.weights" name="Layer 2 Router Weight"/>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def layers() -> Any:
    """The script."""
    spec = importlib.util.spec_from_file_location("layers", PICTURES / "layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "layers", module)  # its dataclass asks for its module
        spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_table(layers: Any) -> None:
    """If this fails, run docs/pictures/layers.py and look at the picture."""
    found = layers.tabled(PICTURES / "v3-layers.csv")
    assert (PICTURES / "v3-layers.svg").read_text() == layers.drawn(found)
    assert [point.layer for point in found if point.kind == "Layer Output"] == [*map(str, range(61)), "MTP"]
    assert all(point.error < point.floor for point in found)


def test_a_table_is_made_of_results(layers: Any, tmp_path: Path) -> None:
    """In the order of layers, the MTP layer last; checks of other tensors are left out."""
    (tmp_path / "results.xml").write_text(RESULTS)
    layers.main(*(str(tmp_path / name) for name in ("results.xml", "table.csv", "picture.svg")))
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[1:] == ["2,Layer Output,0.001,0.002", "10,Layer Output,0.01,0.02", "MTP,Layer Output,0.02,0.03"]
    assert "<circle" in (tmp_path / "picture.svg").read_text()

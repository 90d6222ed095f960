"""Keys of published config.json files, dropped, null and replaced: read as transformers reads it, or refused in one sentence.

Each key of each family with PLUMBLINE_EXAMPLES, and each key of some family without.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.reference.published_families import CONFIGS
from tests.reference.test_families import both, case, changed, folder
from validation.case import preflight
from validation.case.errors import UsageError
from validation.case.folder import model_from_folder
from validation.case.model import Model
from validation.reference import as_read


def others(value: Any) -> list[Any]:
    """Without the key, null, and another value of its type."""
    replaced: Any = "other"
    if isinstance(value, bool):
        replaced = not value
    elif isinstance(value, int):
        replaced = value + 1
    elif isinstance(value, float):
        replaced = value * 2
    elif isinstance(value, (list, dict)):
        replaced = type(value)()
    return [..., None, replaced]


def read(place: Path) -> Model | None:
    """The model, None for one that is refused in one sentence."""
    try:
        model = model_from_folder(place)
        preflight.check(case(model), max_ranks=1, gpus=0, memory=None)
        as_read.check(model, place)
    except UsageError as error:
        sentence = str(error)
    else:
        return model
    assert len(sentence.splitlines()) == 1
    return None


FAMILIES = sorted(set(CONFIGS) - {"kimi_k25"})
_IN_FRONT = ("kv_lora_rank", "qk_nope_head_dim")
"""What lies before the rotary elements of a key's latent, and of a head's query."""
EVERY = "PLUMBLINE_EXAMPLES" in os.environ


@pytest.mark.parametrize("at", range(len(FAMILIES)), ids=FAMILIES)
def test_every_key_is_read_as_transformers_reads_it(at: int, tmp_path: Path) -> None:
    """What is accepted and another model computes what the family's own class computes of it."""
    config = CONFIGS[FAMILIES[at]]
    published = read(folder(tmp_path, config))
    assert published is not None
    keys = [key for place, key in enumerate(config) if EVERY or place % len(FAMILIES) == at]
    for key in keys:
        for other in others(config[key]):
            given = changed(config, key, other)
            found = read(folder(tmp_path, given))
            if found not in (None, published):
                try:
                    theirs, ours = both(given, tmp_path)
                except RuntimeError as error:
                    # transformers' own class of DeepSeek-V2 cannot turn what lies behind a part of an odd size.
                    if key not in _IN_FRONT or "stride divisible by 2" not in str(error):
                        raise
                    continue
                assert float((theirs - ours).norm() / theirs.norm()) < 1e-12, (key, other)

"""Names and shapes are those that megatron-core gives its own models, built for this and asked what they would save.

The Transformer Engine model is megatron-core's, on a stand-in for Transformer Engine's modules (tests/convert/stand_in.py).
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.convert.folders import MODEL
from tests.ports import free_port
from validation.candidate.checkpoint.keys import extra_states, places
from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.rank_files import rank_files, tensors_of
from validation.candidate.checkpoint.tensors import MTP_BLOCK, Megatron, mtp_block_of
from validation.case import declared
from validation.case.parameters import parameters
from validation.compare.piece import box_shape
from validation.machine import version

IMPLEMENTATIONS = ("local", "local-stock", "te")
JOINED = "te+mla_down_proj_fusion"
STATES = (*IMPLEMENTATIONS, *([JOINED] if "model.mla_down_proj_fusion" in declared.here() else []))
"""What a rank's file may be of. torch_dist has two down-projections in any case."""


@functools.cache
def by_megatron(implementation: str) -> dict[str, Any]:
    """What the model of that implementation says it would save."""
    port = free_port()
    words = [sys.executable, "-W", "ignore", "-m", "tests.convert.saved_by_megatron", implementation, str(port)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def megatron(implementation: str) -> Megatron:
    block, joined = mtp_block_of(version("megatron-core")), implementation == JOINED
    return Megatron(MODEL, parameters(MODEL), "te" if joined else implementation, block, joined)


@pytest.mark.parametrize("implementation", STATES)
def test_the_keys_of_torch_dist(implementation: str) -> None:
    """Every key, the shape of its tensor, and the part of it that each parameter is; none too many, none missing.

    One down-projection for both latents is saved as two.
    """
    asked = {tuple(map(json.dumps, found)) for found in by_megatron(implementation)["sharded"] if len(found) > 1}
    ours = set()
    apart = megatron("te" if implementation == JOINED else implementation)
    where = places(apart)
    for ranks, experts in Arrangement.parse("single", MODEL).cuts():
        for tensor in apart.tensors(ranks):
            for held in tensor.holdings if ("{expert}" in tensor.row.megatron) == experts else ():
                place = where[held.parameter.name]
                box = place.box(held.box)
                found = (place.key, list(place.shape), [start for start, _ in box], list(box_shape(box)))
                ours.add(tuple(map(json.dumps, found)))
    assert ours == asked


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_objects_of_torch_dist(implementation: str) -> None:
    """A model asks for the extra state of each of its modules, and does not load where one is missing.

    From 0.17 on an MTP layer asks for one less, that of its core attention. It is written for the older releases.
    """
    asked = {found[0] for found in by_megatron(implementation)["sharded"] if len(found) == 1}
    ours = list(extra_states(megatron(implementation)))
    older = {name for name in ours if ".core_attention." in name and mtp_block_of(version("megatron-core")) != MTP_BLOCK}
    assert sorted(ours) == sorted(asked | older)


@pytest.mark.parametrize("implementation", STATES)
def test_the_names_of_a_rank_s_file(implementation: str) -> None:
    """The tensors of a state dict, with their shapes."""
    asked = {name: shape for name, shape in by_megatron(implementation)["state"].items() if not name.endswith("_extra_state")}
    arrangement = Arrangement.parse("single", MODEL)
    (file,) = rank_files(arrangement.layout)
    ours = {name: list(found.shape) for _, name, found in tensors_of(megatron(implementation), arrangement, MODEL, file)}
    assert ours == asked

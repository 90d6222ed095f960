"""Saves a model with its optimizer as megatron-core does after training, in each way that it shards optimizer states.

python -m tests.convert.trained_by_megatron HF OUT PORT FORM...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

PLAIN = "plain"
FORMS = (PLAIN, "dp_zero_gather_scatter", "dp_reshardable", "fully_reshardable")
"""No sharding, and what 0.16 calls its ways to shard."""


def main(hf: str, out: str, port: str, *forms: str) -> None:
    """One rank that has taken a step which changes no weight."""
    from validation.candidate import platform

    platform.install("gloo")
    with platform.unused_kernels():
        from validation.candidate import build
    platform.mend(on_cpu=True)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port, RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo")
    for kind in ("plain", "distributed"):
        for form, state in _trained(build, hf, kind, [form for form in forms if (form == PLAIN) == (kind == "plain")]):
            from megatron.core import dist_checkpointing

            folder = Path(out) / form
            folder.mkdir()
            dist_checkpointing.save(state, str(folder))
    dist.destroy_process_group()


def _trained(build: Any, hf: str, kind: str, forms: list[str]) -> Any:
    from tests.convert.folders import WITHOUT_MTP
    from validation.candidate import load, platform
    from validation.candidate.optimizer import Optimizer
    from validation.candidate.recorder import Recorder
    from validation.case.case import Case
    from validation.case.layout import Layout
    from validation.case.training import Training
    from validation.compare.precision import computing_in
    from validation.reference.checkpoint import Checkpoint

    still = {"optimizer.lr": 0.0, "optimizer.min_lr": 0.0}
    training = Training(optimizer=kind, steps=1).with_settings(still)
    case = Case("tiny", WITHOUT_MTP, Layout(), "bf16", "local", "gloo", 1, 2, 1, 32, training=training)
    with computing_in("bf16", platform.CudaMeansCpu):
        if kind == "plain":
            build.start_groups(case)
        chunks, recorder = build.build(case), Recorder(0)
        held, weights = load.held_by(chunks, WITHOUT_MTP, recorder), Checkpoint.open(hf, WITHOUT_MTP)
        load.load(chunks, recorder, lambda: load.copy_weights(held, weights))
        optimizer = Optimizer(case, build.wrap(chunks, case))
        optimizer.step()
        inner: Any = optimizer.theirs
        for form in forms:
            state = dict(chunks[0].sharded_state_dict())
            metadata = {} if form == PLAIN else {"metadata": {"distrib_optim_sharding_type": form}}
            yield form, {**state, "optimizer": inner.sharded_state_dict(state, **metadata)}


if __name__ == "__main__":
    main(*sys.argv[1:])

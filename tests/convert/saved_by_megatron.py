"""What megatron-core itself says it would save: prints the model's sharded state dict and state dict as JSON.

python -m tests.convert.saved_by_megatron IMPLEMENTATION[+FIELD] PORT
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist


def described(value: Any) -> list[Any]:
    """Each tensor that a value of the sharded state dict stands for: key, whole shape, offset, shape; or an object's key."""
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensorFactory

    if isinstance(value, ShardedTensorFactory):
        built = value.build()
        return [found for part in (built.values() if isinstance(built, dict) else built) for found in described(part)]
    if isinstance(value, ShardedObject):
        return [[value.unique_key]]
    lead = [1] * value.prepend_axis_num
    return [[value.key, list(value.global_shape), list(value.global_offset), [*lead, *value.local_shape]]]


def main(words: str, port: str) -> None:
    """One rank, the model of tests.convert.folders, with a field of its configuration that is on."""
    implementation, _, field = words.partition("+")
    if implementation == "te":
        from tests.convert import stand_in

        stand_in.install()
    from validation.candidate import platform

    platform.install("gloo")
    from tests.convert.folders import MODEL

    with platform.unused_kernels():
        from validation.candidate import build
    from validation.case.case import Case
    from validation.case.layout import Layout
    from validation.case.training import Training
    from validation.compare.precision import computing_in

    platform.mend(on_cpu=True)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port, RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo")
    training = Training().with_settings({f"model.{field}": True} if field else {})
    case = Case("tiny", MODEL, Layout(), "bf16", implementation, "gloo", 1, 2, 1, 32, training=training)
    with computing_in("bf16", platform.CudaMeansCpu):
        build.start_groups(case)
        (chunk,) = build.build(case)
        saved = [found for value in chunk.sharded_state_dict().values() for found in described(value)]
        state = {name: list(value.shape) if torch.is_tensor(value) else None for name, value in chunk.state_dict().items()}
    sys.stdout.write(json.dumps({"sharded": saved, "state": state}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

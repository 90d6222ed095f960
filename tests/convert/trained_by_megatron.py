"""Saves a model with its optimizer as megatron-core does after training, in each way that it shards optimizer states.

python -m tests.convert.trained_by_megatron HF ALIKE OUT PORT

All layers of the model in the folder ALIKE have experts.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

PLAIN, SINGLETON, STACKED = "plain", "singleton", "stacked"
SHARDED = (
    *("dp_zero_gather_scatter", "fully_sharded_bucket_space", "fully_sharded_model_space"),
    *("dp_reshardable", "fully_reshardable"),
)
FORMS = (PLAIN, SINGLETON, *SHARDED)
"""No sharding, a tensor for each expert, and what releases call their ways to shard. None has all of them.

`stacked` is the model alone, whose layers are alike and have one tensor together.
"""


def _save(forms: Any, out: Path) -> None:
    from megatron.core import dist_checkpointing

    for form, state in forms:
        (out / form).mkdir()
        dist_checkpointing.save(state, str(out / form))


def _say_why(out: Path, form: str, error: Exception) -> None:
    (out / f"{form}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


_NOT_WRITTEN = ("flattened_range is not supported", "(torch.Size([]), 0, ")
"""What 0.15 and later say of fully_sharded_model_space, which they still list, and 0.15 of a step count that is a tensor."""


def main(hf: str, alike: str, out: str, port: str) -> None:
    """One rank that has taken a step which changes no weight."""
    from validation.candidate import platform

    platform.install("gloo")
    with platform.unused_kernels():
        from validation.candidate import build
    platform.mend(on_cpu=True)
    _suit_older_releases()
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=port, RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo")
    for kind in ("plain", "distributed", STACKED):
        try:
            _save(_alike(build, alike) if kind == STACKED else _trained(build, hf, out, kind), Path(out))
        except Exception as error:
            if _renamed() or kind != "distributed":
                raise
            for form in _forms(kind):
                _say_why(Path(out), form, error)
    dist.destroy_process_group()


def _suit_older_releases() -> None:
    """They know an older numpy, and until 0.12 a function of torch's without the format that it writes."""
    import numpy
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from torch.distributed.checkpoint import filesystem

    vars(numpy).setdefault("product", numpy.prod)
    if "serialization_format" not in inspect.getsource(filesystem_async):
        given = functools.partial(filesystem._write_item, serialization_format=filesystem.SerializationFormat.TORCH_SAVE)
        filesystem_async._write_item = given


def _trained(build: Any, hf: str, out: str, kind: str) -> Any:
    from validation.candidate import platform
    from validation.candidate.optimizer import Optimizer
    from validation.compare.precision import computing_in

    case = _case(hf, kind)
    with computing_in("bf16", platform.CudaMeansCpu):
        if kind == "plain":
            build.start_groups(case)
        chunks = _filled(build, case, hf)
        optimizer = Optimizer(case, build.wrap(chunks, case))
        optimizer.step()
        inner: Any = optimizer.theirs
        for one in getattr(inner, "chained_optimizers", [inner]):
            if getattr(one, "data_parallel_group_gloo", one) is None:
                one.data_parallel_group_gloo = one.data_parallel_group  # which is one of gloo's here
        for form in _forms(kind):
            state = dict(chunks[0].sharded_state_dict(metadata=_singleton() if form == SINGLETON else None))
            try:
                trained = {} if form == SINGLETON else {"optimizer": inner.sharded_state_dict(state, **_asked(form))}
            except Exception as error:
                if _renamed() and not any(said in str(error) for said in _NOT_WRITTEN):
                    raise
                _say_why(Path(out), form, error)
                continue
            yield form, {**state, **trained}


def _forms(kind: str) -> list[str]:
    """Those that this release has, by its source."""
    if kind == "plain":
        from megatron.core.transformer.moe import experts

        return [PLAIN, *([SINGLETON] if "singleton_local_shards" in inspect.getsource(experts) else [])]
    from megatron.core.optimizer import distrib_optimizer

    source = inspect.getsource(distrib_optimizer.DistributedOptimizer)
    return [form for form in SHARDED if f"'{form}'" in source and not (_renamed() and form == SHARDED[1])]


def _renamed() -> bool:
    """Whether fully_sharded_bucket_space is no longer written, since 0.15. Before, forms may need more than torch's AdamW."""
    from megatron.core.optimizer import distrib_optimizer

    return "dp_reshardable" in inspect.getsource(distrib_optimizer)


def _asked(form: str) -> dict[str, Any]:
    """How a form of sharding is asked for: since 0.13 by metadata."""
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    if form == PLAIN:
        return {}
    by_metadata = "metadata" in inspect.signature(DistributedOptimizer.sharded_state_dict).parameters
    return {"metadata": {"distrib_optim_sharding_type": form}} if by_metadata else {"sharding_type": form}


def _alike(build: Any, hf: str) -> Any:
    """A model that says of its experts what megatron-core's default says: every layer has some."""
    from validation.candidate import platform
    from validation.compare.precision import computing_in

    with computing_in("bf16", platform.CudaMeansCpu):
        (chunk,) = _filled(build, _case(hf, "plain"), hf)
        chunk.decoder.config.moe_layer_freq = 1
        yield STACKED, dict(chunk.sharded_state_dict())


def _case(hf: str, optimizer: str) -> Any:
    from validation.case.case import Case
    from validation.case.folder import model_from_folder
    from validation.case.layout import Layout
    from validation.case.training import Training

    training = Training(optimizer=optimizer, steps=1).with_settings({"optimizer.lr": 0.0, "optimizer.min_lr": 0.0})
    return Case("tiny", model_from_folder(hf), Layout(), "bf16", "local", "gloo", 1, 2, 1, 32, training=training)


def _filled(build: Any, case: Any, hf: str) -> Any:
    from validation.candidate import load
    from validation.candidate.recorder import Recorder
    from validation.reference.checkpoint import Checkpoint

    chunks, recorder = build.build(case), Recorder(0)
    held, weights = load.held_by(chunks, case.model, recorder), Checkpoint.open(hf, case.model)
    load.load(chunks, recorder, lambda: load.copy_weights(held, weights))
    return chunks


def _singleton() -> dict[str, Any]:
    from megatron.core import parallel_state

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return {"singleton_local_shards": True, "dp_cp_group": group}


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Computing the reference of a case: forward and backward of the HuggingFace model, every probe written to the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from validation.case.case import Case
from validation.compare.precision import computing_in, make_deterministic
from validation.reference import model as reference_model
from validation.reference import mtp as reference_mtp
from validation.reference import store
from validation.reference.batch import make_batch
from validation.reference.checkpoint import Checkpoint, verify
from validation.reference.record import Recording, record_step
from validation.reference.steps import Steps
from validation.reference.weights import save_weights

Progress = Callable[[str], None]


def compute(case: Case, home: Path, device: torch.device, progress: Progress) -> store.Reference:
    """The case's reference, computed now and stored below `home`. Raises UsageError for a checkpoint that is no good."""
    return store.keep(case, home, lambda folder: _write(case, folder, device, progress))


def _write(case: Case, folder: Path, device: torch.device, progress: Progress) -> dict[str, Any]:
    start = time.monotonic()
    progress("weights")
    if case.hf_model_path is None:
        digest = save_weights(case, folder / "weights.safetensors")
        checkpoint = Checkpoint.open(folder / "weights.safetensors", case.model)
    else:
        checkpoint = Checkpoint.open(Path(case.hf_model_path), case.model, case.layers)
        digest = verify(checkpoint)
    batches = [make_batch(case, step) for step in range(max(1, case.training.steps))]
    tensors = {name: tensor for step, batch in enumerate(batches) for name, tensor in batch.tensors(step).items()}
    save_file(tensors, folder / "batch.safetensors")
    settings = make_deterministic()
    with computing_in(case.precision) as dtype:
        progress("reference model")
        hf = reference_model.build(case.model, checkpoint, dtype, device)
        steps = Steps(hf, case)
        on_device = batches[0].to(device)
        mtp = reference_mtp.build(hf, case.model, checkpoint, dtype, device)

        def further(hidden: torch.Tensor, recording: Recording) -> torch.Tensor | float:
            for layer, value in steps.balance.losses().items():
                recording.forward[f"layers.{layer}.moe.balancing"] = value.detach().cpu()
            predicted = reference_mtp.record(hf, mtp, case.model, on_device, hidden, recording) if mtp is not None else 0.0
            return predicted + steps.balance.total()

        with steps.loads.counting(), steps.balance.watching():
            recording = record_step(hf, case, on_device, progress, further)
        save_file(recording.forward, folder / "probes.safetensors")
        save_file(recording.gradients, folder / "probe_gradients.safetensors")
        named = [*hf.named_parameters(), *(reference_mtp.named_parameters(mtp, case.model) if mtp else ())]
        save_file(
            {name: gradient.cpu() for name, gradient in reference_model.gradients(named, case.model).items()},
            folder / "gradients.safetensors",
        )
        for step in range(1, case.training.steps + 1):
            progress(f"reference step {step}")
            if step > 1:
                steps.forward_and_backward(batches[step - 1].to(device))
            steps.take(step)
        save_file(steps.kept, folder / "steps.safetensors")
    return {
        "weights_digest": digest,
        "keys": len(checkpoint.keys()),
        "unused": checkpoint.unused(),
        "set_aside": dict(checkpoint.set_aside),
        "reference_seconds": round(time.monotonic() - start, 3),
        "attention": reference_model.ATTENTION,
        "experts": reference_model.EXPERTS_IMPLEMENTATION,
        **settings,
    }

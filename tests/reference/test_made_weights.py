"""A preset's weights are those of its seed, however many threads make them."""

from __future__ import annotations

from pathlib import Path

import torch

from validation.reference.weights import make_weights, save_weights
from validation.run.options import parsed


def test_the_number_of_threads_changes_no_weight_and_no_order(tmp_path: Path) -> None:
    """References of two machines have one digest."""
    (case,) = parsed(["--layouts", "single"]).cases
    before, digests, names = torch.get_num_threads(), [], []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            digests.append(save_weights(case, tmp_path / f"{threads}.safetensors"))
            names.append([parameter.name for parameter, _ in make_weights(case)])
    finally:
        torch.set_num_threads(before)
    assert digests[0] == digests[1] == "f0ef0b6621bc1331ce3d3e6f393be319b983c0afbbade0993119c59cad430414"
    assert names[0] == names[1]

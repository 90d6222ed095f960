"""A run as a TrainJob of Kubeflow Trainer: its manifest. No torch.

The runtime `torch-distributed` sets PET_NNODES and its companions in each pod, by which a run knows its node (place.py).
https://github.com/kubeflow/trainer/blob/master/manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from validation.case.errors import UsageError
from validation.case.plural import many

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])?")
RUNTIME = "torch-distributed"
_OUT = ("--results", "/results")
"""Where a pod has the volume that keeps the reports."""
_MOST_WORDS = 128


def manifest(words: Sequence[str], nodes: int, image: str, name: str, gpus: int = 0, token: str = "") -> str:
    """The manifest as JSON, which is YAML. Raises UsageError for a name that Kubernetes does not take.

    `token` names the secret that holds the run's token under the key `token`; empty for none.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name}: give lower-case letters, digits and -, beginning with a letter, at most 53")
    if len(words) + len(_OUT) > _MOST_WORDS:
        raise UsageError(
            f"{many(len(words), 'word')} of a run: a TrainJob takes {_MOST_WORDS - len(_OUT)}; join layouts with commas"
        )
    trainer: dict[str, Any] = {
        "numNodes": nodes,
        "numProcPerNode": 1,
        "image": image,
        "command": ["python", "-m", "plumbline", "run"],
        "args": [*words, *_OUT],
    }
    if gpus:
        trainer["resourcesPerNode"] = {"limits": {"nvidia.com/gpu": gpus}, "requests": {"nvidia.com/gpu": gpus}}
    if token:
        secret = {"secretKeyRef": {"name": token, "key": "token"}}
        trainer["env"] = [{"name": "PLUMBLINE_TOKEN", "valueFrom": secret}]
    document = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": {"name": RUNTIME}, "trainer": trainer},
    }
    return json.dumps(document, indent=2) + "\n"

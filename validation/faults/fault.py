"""What the catalogue knows of a fault. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from validation.case.arrangement import parse
from validation.case.case import DEFAULT_SEED, Case
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.training import Training
from validation.case.vocabulary import padded
from validation.run.known import mended

CORE = "https://github.com/NVIDIA/Megatron-LM"
BRIDGE = "https://github.com/NVIDIA-NeMo/Megatron-Bridge"
PAI = "https://github.com/alibaba/Pai-Megatron-Patch"
TE = "https://github.com/NVIDIA/TransformerEngine"
HF = "https://github.com/huggingface/transformers"

SPARSE = (("index_topk", "8"), ("index_n_heads", "4"), ("index_head_dim", "48"))
"""Numbers of a model with sparse attention."""
GROUPS = (
    "attention",
    "norm",
    "router",
    "experts",
    "tensor parallel",
    "pipeline",
    "context parallel",
    "expert parallel",
    "optimizer",
    "conversion",
    "precision",
    "data",
    "inference",
)
KINDS = ("forward", "backward", "step")
CAUSES = {
    "attention": "modelling",
    "norm": "modelling",
    "router": "modelling",
    "experts": "modelling",
    "tensor parallel": "tensor parallelism",
    "pipeline": "pipeline parallelism",
    "context parallel": "context parallelism",
    "expert parallel": "expert parallelism",
    "optimizer": "optimizer step",
    "conversion": "weights",
    "precision": "precision",
    "data": "modelling",
    "inference": "option +static",
}
"""What a diagnosis over layouts must name, by the group of a fault."""
_DEGREES = {
    "tp": "tensor parallelism",
    "pp": "pipeline parallelism",
    "vpp": "virtual pipeline",
    "cp": "context parallelism",
    "ep": "expert parallelism",
    "etp": "expert-tensor parallelism",
    "dp": "data parallelism",
}


def _group(shown_with: str) -> str:
    """The group of causes that a degree, an option or a precision stands for."""
    return f"option {shown_with}" if shown_with.startswith("+") else _DEGREES.get(shown_with, "precision")


@dataclass(frozen=True)
class Fault:
    """One fault, in a file that is a plugin (validation.run.plugin) and names this `FAULT`; `plugin` is the file's module.

    `layouts` are those that expose it, each with the options of its step as `--layouts` takes them. `first` is the comparison
    that must be the first to fail in data-flow order: {moe} and {last} stand for the model's first layer of experts and its
    last layer, {output} for its last trained parameter. `kind` is where it shows: in the forward pass, only in the backward
    pass, only after an optimizer step.

    `unseen` says why no check can see it, where that is so; it must then be missed.

    `without_bugs` says that a known upstream bug would excuse its check: the bugs are taken out of its case.

    `cause` is what a diagnosis over layouts must name, if that is not what its group says (CAUSES), and behind a comma what
    else it may name. A gradient norm that is summed over the wrong ranks is wrong under tensor parallelism, though it is the
    optimizer's. `needs` are degrees, options or a precision without which what the fault describes does not exist, if its
    functions would do something without them: `tp dp`.

    `since` is the oldest megatron-core whose sound cases pass where the fault is put, if older ones have none.

    `absent` names an implementation or a precision whose cases cannot have it, each with the reason, where no rule of preflight
    refuses such a case.

    The others make its case: a part of tiny of `layers` layers, with `numbers` of its model changed.
    """

    plugin: str
    group: str
    does: str
    sources: tuple[str, ...]
    first: str
    kind: str = "forward"
    layouts: tuple[str, ...] = ("single",)
    unseen: str = ""
    without_bugs: bool = False
    cause: str = ""
    needs: str = ""
    since: str = ""
    absent: tuple[tuple[str, str], ...] = ()
    precision: str = "fp64"
    steps: int = 0
    layers: int = 2
    batch_size: int = 4
    seq_length: int = 16
    seed: int = DEFAULT_SEED
    numbers: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """The name of its file: `A01`."""
        return self.plugin.rpartition(".")[2].upper()

    def case(self, layout: str) -> Case:
        """What it is put into. Micro-batches hold one sequence, so that a step has several."""
        parsed, training, mtp = parse(layout, Training(steps=self.steps))
        model = TINY.model.with_numbers({"num_hidden_layers": str(self.layers), **dict(self.numbers)})
        case = Case(
            preset=TINY.name,
            model=padded(model if mtp is None else replace(model, num_nextn_predict_layers=mtp), parsed, training),
            layout=parsed,
            precision=self.precision,
            implementation="local",
            transport="gloo",
            seed=self.seed,
            batch_size=self.batch_size,
            micro_batch_size=1,
            seq_length=self.seq_length,
            training=training,
        )
        return mended(case) if self.without_bugs else case

    def exists_in(self, megatron_core: str) -> bool:
        """Whether a release can have it; one whose version is no number is taken for a new one."""
        numbers = [version.split(".")[:2] for version in (megatron_core, self.since)]
        if not all(number.isdigit() for version in numbers for number in version):
            return True
        of_core, since = (tuple(map(int, version)) for version in numbers)
        return of_core >= since

    @property
    def named(self) -> str:
        """The group of causes that a diagnosis over layouts must name."""
        return self.cause.partition(", ")[0] or CAUSES[self.group]

    @property
    def true(self) -> frozenset[str]:
        """The groups that a diagnosis may name: the properties of the layouts that show it, and where it shows."""
        found = {self.named, *filter(None, self.cause.split(", ")), *map(_group, self.shown_with)}
        found |= {"weights"} if self.first.startswith("weights/") else set()
        return frozenset(found | ({"optimizer step"} if self.kind == "step" else set()))

    @property
    def shown_with(self) -> frozenset[str]:
        """The degrees and options that its layouts name, and a precision below fp64: `tp`, `+full`, `bf16`."""
        options = {f"+{word}" for layout in self.layouts for word in layout.split("+")[1:]}
        named = {name for layout in self.layouts for name in re.findall("[a-z]+", layout.split("+")[0])}
        return frozenset(options | (named & _DEGREES.keys()) | ({self.precision} - {"fp64"}))

    def first_in(self, case: Case) -> str:
        """`first` by its name in the ranks' reports."""
        model = case.model
        output = [parameter.name for parameter in parameters(model).values() if parameter.trained][-1]
        moe = model.moe_layers[0] if model.moe_layers else None
        return self.first.format(moe=moe, last=model.num_hidden_layers - 1, output=output)

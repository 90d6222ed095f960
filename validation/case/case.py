"""One case: what is compared, under which layout, how precisely, with what. One case is one distributed run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from validation.case.arrangement import written
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.plural import many
from validation.case.training import OPTIONS, Training, mtp_words

PRECISIONS = ("fp64", "fp32", "bf16", "fp16")
TRANSPORTS = ("gloo", "nccl", "staged", "staged-cpu")
ON_CPU = ("gloo", "staged-cpu")
"""Transports between ranks on the CPU. The second takes the way of `staged`, which needs a GPU, to rehearse it."""
TE = ("te", "te-unfused", "te-fused", "te-flash")
"""Transformer Engine with the core attention that it chooses itself, or with one of its three."""
IMPLEMENTATIONS = ("local", "local-stock", *TE)
DEFAULT_SEED = 1234


@dataclass(frozen=True)
class Case:
    """Preset, layout, precision, implementation, transport and seed, with the numbers they stand for.

    `batch_size` counts the sequences of one step over all data-parallel ranks, `micro_batch_size` those of one forward
    pass. `hf_model_path` names a checkpoint folder in place of a preset's random weights; `layers` are the layers of it
    that are taken, in its own counting, and empty for all. `isolated` says that every module is given the reference's input,
    and in the backward pass the reference's gradient, whatever the modules before it made. `candidate_checkpoint` names a
    Megatron checkpoint that the candidate's weights are loaded from, in place of the reference's own. `mended` names the known
    upstream bugs that are taken out of the candidate (validation.candidate.mends), which judges the checks behind them.
    `data` names the file of the tokens in place of random ones, and `data_digest` what is taken of it (validation.case.tokens).
    `tokenizer` is the folder of the tokenizer of its text, if that is not the checkpoint's.
    `upto` is where the ranks end (validation.case.depth). It does not change what the case is called.
    """

    preset: str
    model: Model
    layout: Layout
    precision: str
    implementation: str
    transport: str
    seed: int
    batch_size: int
    micro_batch_size: int
    seq_length: int
    hf_model_path: str | None = None
    layers: tuple[int, ...] = ()
    training: Training = field(default_factory=Training)
    isolated: bool = False
    candidate_checkpoint: str | None = None
    mended: tuple[str, ...] = ()
    data: str | None = None
    data_digest: str = ""
    tokenizer: str | None = None
    upto: str = ""

    def __hash__(self) -> int:
        """As of every dataclass, worked out once: what is known of a case is kept in tables, which each check looks into."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, one.name) for one in fields(self)))

    def __getstate__(self) -> dict[str, Any]:
        """Its fields alone: in another process texts have another hash."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def arrangement(self) -> str:
        """The layout with the words of the step: `tp2`, `pp2+1-3`, `tp2+distributed+full`; `pp2+mtp` with an MTP layer.

        All of them: validation.case.arrangement reads the same layout and options out of it.
        """
        return written(self.layout, self.training, self.model.num_nextn_predict_layers)

    # Kept, like the name: each of thousands of checks is sorted, counted and told by them.
    @cached_property
    def label(self) -> str:
        """The arrangement as names have it: many settings are a digest there."""
        return "+".join((self.layout.name, *mtp_words(self.model.num_nextn_predict_layers), *self.training.label))

    @cached_property
    def name(self) -> str:
        """The case in one word, as used for JUnit files: `tiny-tp2-fp64-local-gloo`."""
        implementation = self.implementation.replace(":", ".")
        parts = [self.preset, self.label, self.precision, implementation, self.transport]
        parts += [f"seed{self.seed}"] if self.seed != DEFAULT_SEED else []
        parts += [f"data-{self.data_digest}"] if self.data else []
        parts += ["isolated"] if self.isolated else []
        parts += ["mended"] if self.mended else []
        return "-".join(parts)

    @property
    def title(self) -> str:
        """The case as a heading: `tiny / tp2 / fp64 / local / gloo: 2 ranks`."""
        words = [self.preset, self.label, self.precision, self.implementation, self.transport]
        words += [f"data {self.data_digest}"] if self.data else []
        words += ["isolated"] if self.isolated else []
        words += ["known bugs taken out"] if self.mended else []
        ranks = self.layout.ranks
        return f"{' / '.join(words)}: {many(ranks, 'rank')}"

    @property
    def on_cpu(self) -> bool:
        """Whether ranks and reference compute on the CPU."""
        return self.transport in ON_CPU

    @property
    def uses_te(self) -> bool:
        """Whether the layers are Transformer Engine's."""
        return self.implementation in TE

    @property
    def compiles(self) -> bool:
        """Whether torch compiles in the ranks: in such functions Transformer Engine's context parallelism joins attention."""
        return self.uses_te and self.layout.cp > 1

    @property
    def in_lockstep(self) -> bool:
        """Whether reference and candidate are computed at the same time, layer by layer, by the one rank."""
        return self.training.stream and self.layout.ranks == 1

    @property
    def has_masters(self) -> bool:
        """Whether an optimizer steps copies of the weights in float32, of which the weights are roundings."""
        return self.precision in ("bf16", "fp16") and self.training.steps > 0

    @property
    def rounds_sums(self) -> bool:
        """Whether gradients are added up in the precision of the model."""
        return self.precision == "bf16" and self.training.effective("ddp").get("grad_reduce_in_fp32") is False

    @property
    def micro_batches(self) -> int:
        """Forward passes of one step on each data-parallel rank."""
        return self.batch_size // (self.micro_batch_size * self.layout.data_parallel)

    def to_json(self) -> str:
        """The case as text, for the ranks."""
        fields = asdict(self) | {"model": self.model.as_dict()}
        if not self.mended:
            del fields["mended"]  # a case is called what it was called before there were any
        if not self.data:
            del fields["data"], fields["data_digest"]
        if not self.tokenizer:
            del fields["tokenizer"]
        if not self.upto:
            del fields["upto"]
        for name in ("settings", "life", "vocab_multiple"):
            if not getattr(self.training, name):
                del fields["training"][name]
        for option in ("mtp_loss", "data_shape", "padding_logits", "inference"):
            if getattr(self.training, option) == OPTIONS[option][0]:
                del fields["training"][option]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Case:
        """The case that `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        data["model"] = Model(**data["model"])
        data["layout"] = Layout(**data["layout"])
        data["layers"] = tuple(data["layers"])
        data["mended"] = tuple(data.get("mended", ()))
        data["training"] = Training.from_dict(data["training"])
        return cls(**data)

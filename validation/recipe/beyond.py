"""What changes the numbers of a step and is no field of Megatron-Core's configurations: variables, and arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from validation.case.annotation import Value
from validation.recipe.arguments import Given
from validation.recipe.recipe import Origin, Setting, Source

_OFF = ("", "0")
_ROUNDED = (
    "the weights of the experts are rounded to {} in each forward pass (quantisation-aware training), for which the reference "
    "has no formula: the verdict is that of the same training without the variable"
)
_PACKED = (
    "documents of a sequence do not see each other, and the stand-in's sequences are one document each; a run of its layout "
    "with +packed compares that"
)
MASK, POSITIONS, LOSS = "reset_attention_mask", "reset_position_ids", "eod_mask_loss"
DATA = (MASK, POSITIONS, LOSS)
"""What the sequences hold, which a case may have (validation.recipe.documents)."""
NO_MASK, SKIPPED = "create_attention_mask_in_dataloader", "skip_getting_attention_mask_from_dataset"
"""The settings of Megatron-LM and Megatron-Bridge that leave the dataset without a mask."""
PADDING = "rows_of_padding"
"""How many rows of embedding and head stand for no token."""
_ADAPTERS = "adapters train beside the weights, and the stand-in has none"
TUNERS = ("tuner_type", "peft")
"""How ms-swift and Megatron-Bridge say that adapters train."""
WHY: Mapping[str, str] = {
    PADDING: "rows that stand for no token count in the loss, and the stand-in has none; a run of its layout with +vocab128 "
    "compares that",
    "OPEN_TRAINING_INT4_FAKE_QAT_FLAG": _ROUNDED.format("int4"),
    "OPEN_TRAINING_NVFP4_FAKE_QAT_FLAG": _ROUNDED.format("NVFP4"),
    "dataloader_inter_document_masking": _PACKED,
    "packing": _PACKED,
    "sft": "sequences hold conversations, whose prompts the loss leaves out, and the stand-in's are plain tokens",
    "perform_rl_step": "the loss is that of reinforcement learning, and the stand-in's is that of the next token",
    "fp16_lm_cross_entropy": "the loss is computed in fp16, for which the reference has no formula",
    "loss_scale_of_tokens": "ms-swift gives tokens weights of their own in the loss, and in the stand-in each counts once",
    **dict.fromkeys(TUNERS, _ADAPTERS),
    "task_type": "the loss is not that of the next token, as the stand-in's is",
    "te_precision_config_file": "a file with the precision of single layers, which is not read",
    "logits_load_dir": "the loss is that of another model's logits, for which the reference has no formula",
    "mixed_precision": "a name whose numbers are not read; write them out, or take bf16_mixed",
    "freeze_all_layers": "layers do not train, and those of the stand-in do",
}
"""Name -> why it cannot be compared. The variables are slime's and those of its forks: docker/patch of slime changes
Megatron-Core's `TEGroupedLinear._get_weight_tensors`."""


_USUAL = {"loss_scale_of_tokens": "default", "tuner_type": "full", "task_type": "causal_lm"}
"""Words with which a training is that of the stand-in."""


def padding(tokens: Value, rows: Value, origin: Origin) -> Iterator[Setting]:
    """The rows of padding, if there are any."""
    if isinstance(tokens, int) and isinstance(rows, int) and 0 < tokens < rows:
        yield Setting(PADDING, rows - tokens, origin)


def variables(environment: Iterable[tuple[str, str]]) -> Iterator[Setting]:
    """The variables that are set and not off."""
    for name, value in dict(environment).items():
        if name in WHY and value not in _OFF:
            origin = Origin(Source.GIVEN, f"{name}={value}")
            yield Setting(name, int(value) if value.isdecimal() else value, origin)


def arguments(given: Sequence[Given]) -> Iterator[Setting]:
    """The arguments that are given and on, and whether the mask that they ask for is never made."""
    names = {one.option.dest for one in given if one.value}
    for one in given:
        name, without = one.option.dest, one.option.dest == NO_MASK and not one.value and MASK in names
        if without or (name in (*WHY, *DATA) and one.value and one.value != _USUAL.get(name)):
            yield Setting(name, one.value, Origin(Source.GIVEN, one.text, one.place))

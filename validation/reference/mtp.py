"""Multi-token prediction on the HuggingFace side: transformers' MtpModel on the main model, fed with the true tokens.

transformers uses it to draft tokens while generating. Its layers, and the step that runs one of them, are what training needs,
too; the drafting and the loss of its `forward` are not.

DeepSeek-V3's report ends layer k at the last position that has a token k further on. megatron-core computes the k positions
behind it as well, with token 0 as a filler in the place of the token that is missing (roll_tensor in its
multi_token_prediction.py). So does this. No position sees a later one and the filler's loss is masked, so nothing that a probe
shows depends on it. The filler counts in two things, and there it is megatron-core's and not the report's: the loads of the
experts, by which a step moves the expert bias, and the losses that balance them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.model import Model
from validation.case.parameters import parameters
from validation.reference import model as reference_model
from validation.reference.batch import Batch, same_document_ahead
from validation.reference.checkpoint import Checkpoint
from validation.reference.loss import of_mtp_layer, of_words, token_losses
from validation.reference.record import Recording, layer_hooks
from validation.reference.sources import Precision

_NAMES = {"shared_head.norm.": "post_norm.", "enorm.": "enorm.", "hnorm.": "hnorm.", "eh_proj.": "eh_proj."}
"""What the checkpoint calls a layer's own parts, and transformers; the others are those of its block."""


def build(
    hf: DeepseekV3ForCausalLM,
    model: Model,
    checkpoint: Checkpoint,
    precision: Precision,
    device: torch.device,
) -> MtpModel | None:
    """The model's MTP layers with the checkpoint's weights; embedding, output head and rotary table are those of `hf`."""
    if not model.mtp_layers:
        return None
    with torch.device("meta"):
        mtp = MtpModel(hf, model.num_nextn_predict_layers)
    names = [name for name, parameter in parameters(model).items() if parameter.mtp is not None]
    state = {
        to_transformers(name, model): precision.of(name, tensor).to(device)
        for name, tensor in reference_model.state(names, checkpoint)
    }
    mtp.layers.load_state_dict(state, strict=True, assign=True)
    return mtp.train()


def named_parameters(mtp: MtpModel, model: Model) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The layers' own parameters, by the checkpoint's names with the experts as transformers holds them."""
    for name, parameter in mtp.layers.named_parameters():
        yield to_checkpoint(name, model), parameter


def blocks(hf: DeepseekV3ForCausalLM, mtp: MtpModel | None) -> list[Any]:
    """Every decoder layer by its number in the checkpoint: the main model's, then those within the MTP layers."""
    own = [] if mtp is None else [layer.mtp_block for layer in mtp.layers]
    return [*hf.model.layers, *own]


def gates(hf: DeepseekV3ForCausalLM, mtp: MtpModel | None, model: Model) -> Mapping[int, Any]:
    """The routers by layer."""
    found = blocks(hf, mtp)
    return {layer: found[layer].mlp.gate for layer in model.expert_blocks}


def record(
    hf: DeepseekV3ForCausalLM, mtp: MtpModel, case: Case, batch: Batch, hidden: torch.Tensor, recording: Recording
) -> torch.Tensor:
    """Forward of every MTP layer, its probes recorded; returns what they add to the loss.

    `hidden` is the main model's output behind its final norm. Layer k joins position i with token i + k + 1 and predicts the
    one after that, whose loss counts where it counts in the main loss. Its probes end where the tokens do.
    """
    model, total, length = case.model, hidden.new_zeros(()), batch.tokens.shape[1]
    positions = torch.arange(length, device=hidden.device)[None].expand(len(hidden), -1)
    positions = positions if batch.positions is None else batch.positions
    for index, layer in enumerate(model.mtp_layers):
        known, seen = _ahead(batch, 1 + index), recording.of_first(length - 1 - index)
        with _hooks(mtp, model, index, known, seen):
            hidden = _forward_layer(mtp, index, hidden, positions, known.tokens, batch.attended)
        logits = seen.keep(f"layers.{layer}.mtp.logits", of_words(case, hf.lm_head(hidden)))
        logits = of_words(case, logits, -math.inf)
        losses = seen.keep(f"layers.{layer}.mtp.token_loss", token_losses(logits, known.labels))
        loss = case.training.mtp_scale / len(model.mtp_layers) * of_mtp_layer(case, losses, known.mask, batch)
        recording.keep_value(f"layers.{layer}.mtp.loss", loss)
        total = total + loss
    return total


def _ahead(batch: Batch, positions: int) -> Batch:
    """Each position's data of `positions` further on in its document; behind its end token 0, label 0, and not in the loss."""
    own = same_document_ahead(batch, positions)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        further = tensor[:, positions:] if own is None else tensor[:, positions:] * own
        return torch.cat([further, torch.zeros_like(tensor[:, :positions])], 1)

    return Batch(moved(batch.tokens), moved(batch.labels), moved(batch.mask))


def _forward_layer(
    mtp: Any,
    index: int,
    hidden: torch.Tensor,
    positions: torch.Tensor,
    tokens: torch.Tensor,
    attended: torch.Tensor | None,
) -> torch.Tensor:
    """One MTP layer: transformers' `forward_layer`; in 5.17 the same calls stand in the loop of its `forward` only.

    It takes no mask, and makes one itself: `attended`, where there is one, is given to the layer by the same calls.
    """
    found: torch.Tensor
    if hasattr(mtp, "forward_layer") and attended is None:
        found = mtp.forward_layer(index, hidden, positions, None, input_ids=tokens)
    else:
        embeddings = mtp.embed_tokens(tokens)
        masks = {"attention_mask": attended}
        if attended is None:
            masks = mtp.create_masks_for_mtp_layer(index, embeddings, None, positions)
        found = mtp.layers[index](
            embeddings,
            hidden,
            position_embeddings=mtp.rotary_emb(embeddings, position_ids=positions),
            position_ids=positions,
            past_key_values=None,
            **masks,
        )
    return found


def _hooks(mtp: Any, model: Model, index: int, known: Batch, recording: Recording) -> ExitStack:
    """Hooks on everything that one layer runs; they go when the stack that is returned is left."""
    layer, prefix = mtp.layers[index], f"layers.{model.mtp_layers[index]}"
    outputs = {
        "embedding": mtp.embed_tokens,
        "embedding_norm": layer.enorm,
        "hidden_norm": layer.hnorm,
        "projection": layer.eh_proj,
        "final_norm": layer.post_norm,
    }
    hooks = [
        module.register_forward_hook(recording.output(f"{prefix}.mtp.{kind}"), prepend=True) for kind, module in outputs.items()
    ]
    hooks += layer_hooks(layer.mtp_block, model, model.mtp_layers[index], known, recording)
    stack = ExitStack()
    for hook in hooks:
        stack.callback(hook.remove)
    stack.enter_context(recording.attention({layer.mtp_block.self_attn: prefix}))
    return stack


def to_transformers(name: str, model: Model) -> str:
    """`model.layers.4.input_layernorm.weight` -> `0.mtp_block.input_layernorm.weight`."""
    number, inner = name.removeprefix("model.layers.").split(".", 1)
    own = next((part for part in _NAMES if inner.startswith(part)), None)
    inner = f"mtp_block.{inner}" if own is None else _NAMES[own] + inner.removeprefix(own)
    return f"{int(number) - model.num_hidden_layers}.{inner}"


def to_checkpoint(name: str, model: Model) -> str:
    """The other way round."""
    number, inner = name.split(".", 1)
    own = next((part for part, theirs in _NAMES.items() if inner.startswith(theirs)), None)
    inner = inner.removeprefix("mtp_block.") if own is None else own + inner.removeprefix(_NAMES[own])
    return f"model.layers.{model.num_hidden_layers + int(number)}.{inner}"

"""Multi-token prediction on the HuggingFace side: transformers' MtpModel on the main model, fed with the true tokens.

transformers uses it to draft tokens while generating. Its layers, and the step that runs one of them, are what training needs,
too; the drafting and the loss of its `forward` are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.model import Model
from validation.case.parameters import parameters
from validation.reference import model as reference_model
from validation.reference.batch import Batch
from validation.reference.checkpoint import Checkpoint
from validation.reference.loss import of_mtp_layer
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
        _to_transformers(name, model): precision.of(name, tensor).to(device)
        for name, tensor in reference_model.state(names, checkpoint)
    }
    mtp.layers.load_state_dict(state, strict=True, assign=True)
    return mtp.train()


def named_parameters(mtp: MtpModel, model: Model) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The layers' own parameters, by the checkpoint's names with the experts as transformers holds them."""
    for name, parameter in mtp.layers.named_parameters():
        yield _to_checkpoint(name, model), parameter


def record(
    hf: DeepseekV3ForCausalLM, mtp: MtpModel, case: Case, batch: Batch, hidden: torch.Tensor, recording: Recording
) -> torch.Tensor:
    """Forward of every MTP layer, its probes recorded; returns what they add to the loss.

    `hidden` is the main model's output behind its final norm. Layer k joins position i with token i + k + 1 and predicts the
    one after that, whose loss counts where it counts in the main loss.
    """
    model, total = case.model, hidden.new_zeros(())
    for index, layer in enumerate(model.mtp_layers):
        length = batch.tokens.shape[1] - 1 - index
        positions = torch.arange(length, device=hidden.device)[None].expand(len(hidden), -1)
        known = Batch(*(tensor[:, 1 + index :] for tensor in (batch.tokens, batch.labels, batch.mask)))
        with _hooks(mtp, model, index, known, recording):
            hidden = _forward_layer(mtp, index, hidden[:, :length], positions, known.tokens)
        logits = recording.keep(f"layers.{layer}.mtp.logits", hf.lm_head(hidden))
        losses = functional.cross_entropy(logits.float().flatten(0, 1), known.labels.flatten(), reduction="none")
        losses = recording.keep(f"layers.{layer}.mtp.token_loss", losses.view(known.labels.shape))
        loss = case.training.mtp_scale / len(model.mtp_layers) * of_mtp_layer(case, losses, known.mask, batch)
        recording.keep(f"layers.{layer}.mtp.loss", loss)
        total = total + loss
    return total


def _forward_layer(mtp: Any, index: int, hidden: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """One MTP layer: transformers' `forward_layer`; in 5.17 the same calls stand in the loop of its `forward` only."""
    found: torch.Tensor
    if hasattr(mtp, "forward_layer"):
        found = mtp.forward_layer(index, hidden, positions, None, input_ids=tokens)
    else:
        embeddings = mtp.embed_tokens(tokens)
        found = mtp.layers[index](
            embeddings,
            hidden,
            position_embeddings=mtp.rotary_emb(embeddings, position_ids=positions),
            position_ids=positions,
            past_key_values=None,
            **mtp.create_masks_for_mtp_layer(index, embeddings, None, positions),
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


def _to_transformers(name: str, model: Model) -> str:
    """`model.layers.4.input_layernorm.weight` -> `0.mtp_block.input_layernorm.weight`."""
    number, inner = name.removeprefix("model.layers.").split(".", 1)
    own = next((part for part in _NAMES if inner.startswith(part)), None)
    inner = f"mtp_block.{inner}" if own is None else _NAMES[own] + inner.removeprefix(own)
    return f"{int(number) - model.num_hidden_layers}.{inner}"


def _to_checkpoint(name: str, model: Model) -> str:
    number, inner = name.split(".", 1)
    own = next((part for part, theirs in _NAMES.items() if inner.startswith(theirs)), None)
    inner = inner.removeprefix("mtp_block.") if own is None else own + inner.removeprefix(_NAMES[own])
    return f"model.layers.{model.num_hidden_layers + int(number)}.{inner}"

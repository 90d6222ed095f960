"""The first use of a GPU in a process, ahead of time: its context, cuBLAS and the kernels that a model begins with.

A rank would else load each kernel when its model first comes to it, a second in all, and the stages of a pipeline one after
the other. Here it is done beside what a rank waits for: its process groups, and its weights.
"""

from __future__ import annotations

import contextlib
import threading

import torch
from torch.nn import functional

from validation.compare import fused, rounded
from validation.compare.difference import measure
from validation.reference.routing import gap

_TOKENS, _HIDDEN, _EXPERTS = 512, 1024, 16


def ahead(gpu: int, *dtypes: torch.dtype) -> threading.Thread:
    """Have a thread of its own use a GPU for a model in each of `dtypes`, one after the other; nobody need wait for it.

    What fails there fails again where it matters, and is reported there.
    """

    def use() -> None:
        with contextlib.suppress(RuntimeError), torch.cuda.device(gpu):
            for dtype in dtypes:
                like_a_model(torch.device("cuda", gpu), dtype)

    thread = threading.Thread(target=use, name="first use", daemon=True)
    thread.start()
    return thread


def like_a_model(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Differences, and forward and backward through operations like those of a model; nothing is drawn at random.

    Returns the loss.
    """
    with torch.enable_grad():
        _measured(device, dtype)
        _judged(device)
        tokens = torch.arange(_TOKENS, device=device)
        table = torch.ones(_HIDDEN, _HIDDEN, dtype=dtype, device=device, requires_grad=True)
        hidden = functional.embedding(tokens, table).unsqueeze(1)
        for width in (_HIDDEN // 2, _HIDDEN // 8, _HIDDEN):
            weight = torch.ones(width, hidden.shape[-1], dtype=dtype, device=device, requires_grad=True)
            hidden = functional.rms_norm(torch.matmul(hidden, weight.t()), (width,), torch.ones_like(weight[:, 0]))
        hidden = hidden + _attended(hidden)
        hidden = functional.silu(hidden) * hidden
        hidden = _routed(hidden.flatten(0, 1))
        loss = _loss(hidden, tokens)
        loss.backward()
        return loss.detach()


def _measured(device: torch.device, dtype: torch.dtype) -> None:
    """Of weights, values and gradients: in what they are held, against what a reference is stored in."""
    for kind, reference in dict.fromkeys(((dtype, dtype), (dtype, torch.float64), (torch.float32, torch.float64))):
        candidate, expected = (torch.ones(fused.DIGESTED, dtype=one, device=device) for one in (kind, reference))
        measure(candidate, expected, ((0, fused.DIGESTED),))
        if fused.digests(candidate):
            fused.digest(candidate)
    rounded.half_of(torch.linspace(0, 1, _TOKENS, device=device), torch.linspace(0, 1, _TOKENS, device=device).double())


def _judged(device: torch.device) -> None:
    """A router's choice: by what margin, and whether it is that of its scores."""
    scores = torch.linspace(0, 1, _TOKENS * _EXPERTS, device=device, dtype=torch.float64).view(_TOKENS, _EXPERTS)
    margin = torch.minimum(gap(scores, 4), gap(scores.unflatten(-1, (4, -1)).topk(2, dim=-1).values.sum(-1), 2))
    own = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(4, dim=-1).indices, True)
    margin.masked_fill((own == (scores > 0)).all(-1) & (margin <= scores.abs().amax(-1)), 0.0)


def _attended(hidden: torch.Tensor) -> torch.Tensor:
    """Rotated heads, and attention over them."""
    heads = hidden.view(_TOKENS, 1, -1, _HIDDEN // 8)
    steps = torch.arange(_HIDDEN // 16, device=hidden.device).float() / (_HIDDEN // 16)
    ramp = steps.clamp(0, 1)
    frequencies = (1.0 / 10000.0**steps) * (1 - ramp) + (1.0 / (40.0 * 10000.0**steps)) * ramp
    angles = torch.outer(torch.arange(_TOKENS, device=hidden.device).float(), (frequencies > 0).float())
    cos, sin = (torch.cat((turn(angles), turn(angles)), -1)[:, None, None].to(hidden.dtype) for turn in (torch.cos, torch.sin))
    left, right = heads.chunk(2, -1)
    heads = (heads * cos + torch.cat((-right, left), -1) * sin).contiguous()
    query, value = heads.permute(1, 2, 0, 3), heads.permute(1, 2, 0, 3)[..., : _HIDDEN // 16]
    context = functional.scaled_dot_product_attention(query, query, value, is_causal=True)
    return torch.cat((context, context), -1).permute(2, 0, 1, 3).flatten(2)


def _routed(hidden: torch.Tensor) -> torch.Tensor:
    """A router's choice, tokens in the order of their experts, and back."""
    router = torch.ones(_EXPERTS, _HIDDEN, dtype=torch.float32, device=hidden.device, requires_grad=True)
    scores = torch.sigmoid(torch.mm(hidden.float(), router.t()))
    groups = scores.view(_TOKENS, 4, -1).topk(2, dim=-1).values.sum(-1).topk(2, dim=-1).indices
    mask = torch.zeros(_TOKENS, 4, device=hidden.device).scatter_(1, groups, 1).unsqueeze(-1).expand(-1, -1, 4)
    chosen = scores.masked_fill(~mask.reshape(_TOKENS, -1).bool(), float("-inf")).topk(4, dim=-1).indices
    weights = scores.gather(1, chosen)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    routes = torch.zeros_like(scores).scatter(1, chosen, weights)
    held = torch.zeros_like(scores).int().scatter(1, chosen, 1).bool().t().contiguous()
    rows = torch.arange(_TOKENS, device=hidden.device).unsqueeze(0).expand(_EXPERTS, -1).masked_select(held)
    given = hidden.index_select(0, rows) * routes.t().contiguous().masked_select(held).unsqueeze(-1).to(hidden.dtype)
    held.sum(-1).cpu()
    return torch.zeros_like(hidden).scatter_add(0, rows.unsqueeze(1).expand(-1, _HIDDEN), given)


def _loss(hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """As megatron-core computes it over a vocabulary in parts."""
    logits = hidden.float() - hidden.float().max(-1, keepdim=True).values
    chosen = logits[tokens, tokens % _HIDDEN].masked_fill(tokens < 0, 0.0)
    return (torch.log(torch.exp(logits).sum(-1)) - chosen).mul(tokens > 0).sum()

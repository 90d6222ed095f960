"""What DeepSeek-V2's groups are chosen by, in transformers and in megatron-core: why `run` refuses the published numbers."""

from __future__ import annotations

import pytest
import torch
from megatron.core.transformer.moe.moe_utils import group_limited_topk
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter

import tests.core  # noqa: F401 - before megatron-core

TOKENS, HIDDEN, EXPERTS, GROUPS = 4000, 64, 160, 8


@pytest.mark.parametrize(("topk", "topk_group", "alike"), [(3, 3, True), (6, 6, True), (6, 3, False)])
def test_groups_are_alike_if_the_best_expert_alone_counts(topk: int, topk_group: int, alike: bool) -> None:
    """160 experts in 8 groups as DeepSeek-V2 is published, which chooses 6 from 3 groups: a third of tokens goes elsewhere."""
    config = DeepseekV2Config(
        hidden_size=HIDDEN,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=topk,
        topk_method="group_limited_greedy",
        n_group=GROUPS,
        topk_group=topk_group,
    )
    torch.manual_seed(0)
    router = DeepseekV2TopkRouter(config)
    torch.nn.init.normal_(router.weight, std=HIDDEN**-0.5)
    logits, _, theirs = router(torch.randn(TOKENS, HIDDEN))
    _, ours = group_limited_topk(logits.softmax(-1), topk, TOKENS, EXPERTS, GROUPS, topk_group)
    other = (theirs.sort(dim=1).values != ours.sort(dim=1).values).any(dim=1).double().mean()
    assert other == 0 if alike else 0.25 < other < 0.4

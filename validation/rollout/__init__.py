"""A rollout engine's log-probabilities against HuggingFace and Megatron (docs/logprobs.md)."""

"""Checkpoint folders: HuggingFace to Megatron and back, and two of either compared."""

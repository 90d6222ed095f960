"""The HuggingFace side: the model, its weights, its recorded tensors. transformers is never patched."""

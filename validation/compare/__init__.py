"""How two tensors are compared: pieces, differences, tolerances, verdicts."""

"""Layouts of a model on many GPUs: which fit, what they take, and what stands for each on a CPU. No torch."""

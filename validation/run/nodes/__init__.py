"""A run on several machines: node 0, the head, leads and judges; the others follow it and run their share of the ranks."""

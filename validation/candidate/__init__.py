"""The Megatron side: the thing under test."""

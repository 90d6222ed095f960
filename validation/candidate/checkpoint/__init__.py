"""What a Megatron checkpoint of a model holds: the names, shapes and files that megatron-core would save. No model is built."""

"""The pipeline: what runs where, and may this be merged? Imports no torch."""

"""`inspect`: what a checkpoint folder holds, and which commands would work on it. No torch."""

"""The cache: what outlives a command. Which parts of it are in use, how much it may hold, and what it forgets. No torch."""

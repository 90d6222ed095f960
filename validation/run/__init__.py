"""Starting ranks, what one rank does, and what comes back."""

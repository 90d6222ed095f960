"""The candidate's own inference: what a rank does with its model in a case of mode inference."""

"""What must hold, as pytest modules that read as the specification."""

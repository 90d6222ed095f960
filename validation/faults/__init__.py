"""Faults: defects put in on purpose, to show that a check sees them."""

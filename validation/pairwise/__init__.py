"""All pairs of switches and degrees, run: `python -m validation pairs`."""

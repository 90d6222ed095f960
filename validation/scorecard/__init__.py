"""The scorecard: does the gate see the faults of the catalogue, and would others have?"""

"""Words that choose where the counts of a fit come from."""

MODEL, THINNING, PREVIEW = "model", "thinning", "preview"
"""Drawn from the model; a random part of those measured; no fit at all."""
SCAN, AUTO = "scan", "auto"
"""Every other scan position; whichever suits the data."""

"""Changes made by hand between iterations: filters, flips, orthogonal modes, a larger object, a mended scan."""

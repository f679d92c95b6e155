"""Images without iterations: pure numerics on arrays and pieces of data."""

"""From checked parameters to a reconstruction that is ready to start."""

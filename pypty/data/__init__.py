"""Measured patterns: where they are, how they are prepared, how they reach the device."""

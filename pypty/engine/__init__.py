"""Puts everything together: checked parameters in, epochs out."""

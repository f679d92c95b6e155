"""Ordinary optimisation mathematics on vectors and callables; nothing of microscopy."""

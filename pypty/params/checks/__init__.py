"""Checks of parameters against each other."""

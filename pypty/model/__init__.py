"""The physical model: all unknowns, and the stages that turn them into diffraction patterns."""

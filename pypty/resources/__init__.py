"""Data that comes with PyPty."""

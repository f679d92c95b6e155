"""Presets: parameter files that come with PyPty."""

"""Importers for PtyRAD's model files and parameter files."""

"""Parameters against each other."""

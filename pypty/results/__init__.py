"""Result of a run, and its files and figures."""

"""Results: what a run returns, and the files and figures that it leaves."""

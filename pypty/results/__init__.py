"""The result of a run, and the files and figures that it writes."""

"""What is left of a reconstruction on disk: checkpoints, logs, settings, results."""

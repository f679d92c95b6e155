"""Files of a running reconstruction: checkpoints, log of the loss, settings."""

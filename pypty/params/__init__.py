"""Parameters: one schema, schedules per epoch, checks, presets. Knows NumPy, but no other array library."""

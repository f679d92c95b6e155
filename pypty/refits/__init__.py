"""What other fits of the same measurement tell about a result: error bars, resolution, which model is better."""

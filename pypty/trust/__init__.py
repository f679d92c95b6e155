"""How well a reconstruction describes its data, and what is wrong where it does not."""

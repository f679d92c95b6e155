"""The epochs of a reconstruction: the methods that make a step, and what happens between two steps."""

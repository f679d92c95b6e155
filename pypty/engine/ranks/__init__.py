"""A reconstruction on several ranks: rank 0 runs it, and the others compute the loss of their part of the patterns."""

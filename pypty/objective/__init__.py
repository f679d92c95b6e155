"""How well the model explains the data: noise models, and their sum over all patterns."""

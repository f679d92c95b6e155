"""How well the model explains the data: noise models, and their sum over all patterns."""

from pypty._moved import answers

__getattr__ = answers("objective")  # names of PyPty 2.2's module

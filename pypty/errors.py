"""The errors that PyPty raises.

Messages say what was given, what was expected and what to do.
"""

from __future__ import annotations


class PyptyError(Exception):
    """Base of all errors raised by PyPty."""


class ParameterError(PyptyError, ValueError):
    """A parameter, or a combination of parameters, is wrong."""


class ExpressionError(ParameterError):
    """A per-epoch expression cannot be read or evaluated."""


class DataError(PyptyError, ValueError):
    """The measured data cannot be read or cannot be used."""


class MovedError(PyptyError, ImportError):
    """A name of PyPty 2.2 that has another place here."""


class BackendError(PyptyError, RuntimeError):
    """The requested device cannot be used."""


class ResourceError(PyptyError, MemoryError):
    """The reconstruction does not fit into memory."""


class CheckpointError(PyptyError, ValueError):
    """A checkpoint or result file is missing, damaged, or does not fit the parameters."""


class OutputError(PyptyError, OSError):
    """The output folder cannot be written."""


class ReconstructionError(PyptyError, ArithmeticError):
    """The reconstruction reached a state that cannot be continued (for example a loss that is not finite)."""

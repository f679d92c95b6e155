"""The errors that PyPty raises.

Messages say what was given, what was expected and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class PyptyError(Exception):
    """Base of all errors raised by PyPty.

    Attributes
    ----------
    may_pass : the same command may succeed if it is tried again; what a user has to change never passes
    """

    may_pass: ClassVar[bool] = False


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

    may_pass = True


class ResourceError(PyptyError, MemoryError):
    """The reconstruction does not fit into memory."""

    may_pass = True


class CheckpointError(PyptyError, ValueError):
    """A checkpoint or result file is missing, damaged, or does not fit the parameters."""


class OutputError(PyptyError, OSError):
    """The output folder cannot be written."""


class ReconstructionError(PyptyError, ArithmeticError):
    """The reconstruction reached a state that cannot be continued (for example a loss that is not finite)."""


class RankError(PyptyError, RuntimeError):
    """A process of a run that is distributed over several has died, hangs, or has failed."""

    may_pass = True

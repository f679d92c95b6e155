"""Analysis and figures with PyPty's names: the public name of :mod:`pypty.compat.vaa`."""

from pypty.compat.vaa import *  # noqa: F403
from pypty.compat.vaa import __all__ as __all__

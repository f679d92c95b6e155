"""Building blocks with PyPty's names: the public name of :mod:`pypty.compat.utils`."""

from pypty.compat.utils import *  # noqa: F403
from pypty.compat.utils import __all__ as __all__
from pypty.compat.utils import __getattr__ as __getattr__

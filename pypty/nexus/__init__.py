"""Write results as NeXus files of the application definition NXcxi_ptycho."""

from __future__ import annotations

from pypty.nexus.convert import convert_to_nxs
from pypty.nexus.parameters import load_nexus_params

__all__ = ["convert_to_nxs", "load_nexus_params"]

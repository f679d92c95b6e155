"""How the optimiser sees the unknowns: which blocks move, and in which subspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pypty.backend import fft
from pypty.backend.array import Array


@dataclass(frozen=True)
class BandLimits:
    """The subspaces of object and probe.

    Attributes
    ----------
    obj : (Y, X) mask of the object's spectrum, or None (no limit: ``lazy_clean``)
    probe : (y, x) mask of the probe's spectrum, or None
    """

    obj: Array = None
    probe: Array = None

    def project(self, blocks: Mapping[str, Array]) -> dict[str, Array]:
        """Orthogonal projection of every block on its subspace.

        A gradient is projected so that steps stay in the subspace; a projected gradient is the gradient of
        the restricted problem.
        """
        return {name: self._project_block(name, array) for name, array in blocks.items()}

    def _project_block(self, name: str, array: Array) -> Array:
        mask = {"obj": self.obj, "probe": self.probe}.get(name)
        if mask is None:
            return array
        spectrum = fft.fft2(array)
        spectrum *= mask
        return fft.ifft2(spectrum, overwrite=True)

"""From the exit wave to the detector: far field or near field, and the incoherent sum of modes."""

from __future__ import annotations

import numpy as np

from pypty.backend import fft, kernels
from pypty.backend.array import Array, Backend
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.stages.base import Gradients, Tape, add_rows, imaginary_product, per_axis, rows_of
from pypty.model.stages.propagation import INSIDE
from pypty.optics.grid import Grid
from pypty.optics.propagators import fresnel_phase_rate, lens_phase


class FarField:
    """W = M F[psi], unnormalised transform, zero frequency first; M is the band limit."""

    def __init__(self, mask: np.ndarray, backend: Backend) -> None:
        self.mask = None if mask.all() else backend.asarray(mask, backend.real)

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, wave: Array, point: None, batch: Batch, tape: Tape) -> Array:
        spectrum = fft.fft2(wave, overwrite=True)
        if self.mask is not None:
            spectrum *= self.mask
        return spectrum

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        if self.mask is not None:
            grad = grad * self.mask
        return fft.fft2_adjoint(grad, overwrite=True)


class NearField:
    """W_j = F^-1[ C_j F[psi] ], C_j = M exp(i (df_j (r - 2 pi q.t_j) - pi/2 Cs lambda^3 q^4)), r = -pi lambda q^2.

    A propagation over the defocus, seen through a lens with spherical aberration (Kirkland, Advanced Computing in
    Electron Microscopy, chapters 3 and 6); a tilted specimen shifts the image by df t.

    Parameters
    ----------
    defocus : Å, (1,) for all patterns or (N,) for each
    Cs : Å
    tilted : the inside columns of ``tilts`` act
    """

    def __init__(
        self,
        grid: Grid,
        mask: np.ndarray,
        backend: Backend,
        defocus: np.ndarray,
        Cs: float = 0.0,
        tilted: bool = False,
    ) -> None:
        self.backend = backend
        self.mask = backend.asarray(mask, backend.real)
        self.rate = backend.asarray(fresnel_phase_rate(grid), np.float64)
        self.lens = backend.asarray(lens_phase(grid, Cs), np.float64)
        self.qy = backend.asarray(grid.qy[:, 0], np.float64)
        self.qx = backend.asarray(grid.qx[0], np.float64)
        self.defocus = backend.asarray(defocus, np.float64)
        self.tilted = tilted

    def prepare(self, variables: Variables) -> tuple[Array, Array]:
        """The inside tilts (None without), and the transfer function (1, y, x) if all patterns share one."""
        tilts = variables.tilts[:, INSIDE] if self.tilted else None
        # without defoci or tilts of single patterns the transfer function is made once per evaluation
        common = len(self.defocus) == 1 and (tilts is None or len(tilts) == 1)
        return tilts, self._transfer(self.defocus, tilts) if common else None

    def _transfer(self, defocus: Array, tilts: Array) -> Array:
        xp = self.backend.xp
        # (1, y, x), with tilts of N patterns (N, y, x)
        rate = self.rate[None]
        if tilts is not None:
            # a tilted specimen moves the image by df t: a linear phase in q
            rate = rate - 2 * np.pi * (
                tilts[:, 0, None, None] * self.qy[:, None] + tilts[:, 1, None, None] * self.qx
            )
        # (1 or b, 1, 1) * (1 or b, y, x) + (y, x) -> (1 or b, y, x)
        phase = defocus[:, None, None] * rate + self.lens
        return xp.exp(1j * phase).astype(self.backend.complex) * self.mask

    def forward(self, wave: Array, point: tuple[Array, Array], batch: Batch, tape: Tape) -> Array:
        tilts, common = point
        if common is None:
            tilts = None if tilts is None else rows_of(tilts, batch)
            common = self._transfer(rows_of(self.defocus, batch), tilts)
        tape["transfer"] = common[:, None, None]  # (1 or b, y, x) -> (1 or b, 1, 1, y, x)
        spectrum = fft.fft2(wave, overwrite=True) * tape["transfer"]
        tape["spectrum"] = spectrum
        return fft.ifft2(spectrum)

    def adjoint(
        self, grad: Array, point: tuple[Array, Array], batch: Batch, tape: Tape, gradients: Gradients
    ) -> Array:
        spectrum = fft.ifft2_adjoint(grad, overwrite=True)
        if self.tilted and "tilts" in gradients:  # dL/dt = 2 pi df sum_q q Im(conj(G^) W^)
            slope = imaginary_product(spectrum, tape["spectrum"], axes=(1, 2))
            values = 2 * np.pi * rows_of(self.defocus, batch)[:, None] * per_axis(slope, self.qy, self.qx)
            add_rows(gradients["tilts"][:, INSIDE], batch, values)
        spectrum *= tape["transfer"].conj()
        return fft.fft2_adjoint(spectrum, overwrite=True)


class Intensity:
    """I = sum over probe modes and object modes m of w_m |W|^2: modes are incoherent and their counts add.

    dL/dW = 2 w_m (dL/dI) W.

    Parameters
    ----------
    weights : (object mode,) w_m (``obj_mode_weights``) on the device, or None (1)
    """

    def __init__(self, weights: Array = None) -> None:
        self.weights = weights

    def prepare(self, variables: Variables) -> None:
        return None

    def forward(self, wave: Array, point: None, batch: Batch, tape: Tape) -> Array:
        # (b, P, O, ky, kx) -> (b, ky, kx)
        tape["wave"] = wave
        return (
            kernels.sum_abs2(wave, axes=(1, 2))
            if self.weights is None
            else kernels.weighted_abs2(wave, self.weights)
        )

    def adjoint(self, grad: Array, point: None, batch: Batch, tape: Tape, gradients: Gradients) -> Array:
        # (b, 1, 1, ky, kx) * (b, P, O, ky, kx); weights then broadcast as (O, 1, 1)
        grad = (2 * grad)[:, None, None] * tape["wave"]
        return grad if self.weights is None else grad * self.weights[:, None, None]

"""Gains of the four quadrants of a detector."""

from __future__ import annotations

import numpy as np

from pypty.backend import kernels
from pypty.backend.array import Array, Backend, array_module
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.options import ModelOptions
from pypty.model.stages.base import Gradients, Tape


class DetectorGains:
    """I <- |g_Q| I, Q the quadrant of the pixel (``detector_gains``): a detector of four chips, or read-outs, that
    count differently. A background is added after it, in measured counts.

    The sign of a gain has no meaning: a line search may try negative ones, and counts stay positive.
    dL/dg_Q = sign(g_Q) x sum over patterns and pixels of Q of dL/dI I.

    A quadrant ends where the frequency (near field: the distance from the centre) becomes 0, at index n//2 of centred
    patterns, which belongs to the second one along its axis. A common factor of all gains cannot be distinguished from
    one of the beam: keep either the power of the probe or the gains fixed.

    Parameters
    ----------
    shape : (ky, kx) of a pattern as it is compared, before virtual detectors
    centred : patterns have their centre at n//2 instead of the zero frequency first
    """

    lights_dark = False
    in_graphs = True

    @classmethod
    def for_model(cls, options: ModelOptions, backend: Backend) -> DetectorGains | None:
        if "detector_gains" not in options.unknowns:
            return None
        return cls(options.measured, backend, options.centred)

    def __init__(self, shape: tuple[int, int], backend: Backend, centred: bool = False) -> None:
        self.rows, self.columns = (backend.asarray(_halves(n, centred), np.float64) for n in shape)

    def prepare(self, variables: Variables) -> tuple[Array, Array]:
        """(ky, kx) gain of each pixel, and the (2, 2) signs of the quadrants' gains."""
        gains = variables.detector_gains
        # (ky, 2) @ (2, 2) @ (2, kx) -> (ky, kx)
        return self.rows.T @ abs(gains) @ self.columns, array_module(gains).where(gains < 0, -1.0, 1.0)

    def forward(self, intensity: Array, point: tuple[Array, Array] | None, batch: Batch, tape: Tape) -> Array:
        if point is None:  # called for the reachable pixels only, which gains do not change
            return intensity
        tape["intensity"] = intensity
        return intensity * point[0].astype(intensity.dtype)

    def adjoint(
        self, grad: Array, point: tuple[Array, Array], batch: Batch, tape: Tape, gradients: Gradients
    ) -> Array:
        gain, sign = point
        if "detector_gains" in gradients:
            slope = (grad * tape["intensity"]).sum(axis=0, dtype=np.float64)  # (batch, ky, kx) -> (ky, kx)
            gradients["detector_gains"][...] += (
                sign * kernels.along_axes(self.rows, slope[None], self.columns)[0]
            )
        return grad * gain.astype(grad.dtype)


def _halves(n: int, centred: bool) -> np.ndarray:
    """(2, n) 1 where an index belongs to the first, or to the second half of centred patterns."""
    second = np.arange(n) >= n // 2
    if not centred:
        second = np.fft.ifftshift(second)
    return np.stack([~second, second]).astype(float)

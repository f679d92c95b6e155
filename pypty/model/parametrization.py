"""Parametrisation of the unknowns: the numbers that the optimiser moves, and their subspace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, array_module
from pypty.backend.cuda.steps import step_kernels
from pypty.backend.kernels import abs2
from pypty.model.blocks import Variables
from pypty.model.step_filters import StepFilter

OBJECT_FORMS = ("complex", "phase", "amplitude_phase")
PROBE_FORMS = ("complex", "fourier_phase", "fourier_amplitude")
POSITION_FORMS = ("free", "affine", "jitter")
_DARK = 1e-3
"""Smallest curvature of a phase, as a fraction of the largest: keeps steps bounded where the amplitude vanishes."""


@dataclass(frozen=True)
class BandLimits:
    """The subspaces of object and probe.

    Attributes
    ----------
    obj : (Y, X) mask of the object's spectrum, or None (no limit: ``lazy_clean``)
    probe : (y, x) mask of the probe's spectrum, or None
    obj_steps, probe_steps : the same with a soft edge, by which steps are damped; None = the hard masks
    """

    obj: Array = None
    probe: Array = None
    obj_steps: Array = None
    probe_steps: Array = None

    def limit(self, name: str, array: Array, overwrite: bool = False) -> Array:
        """Orthogonal projection of an object or probe on its subspace; other blocks are returned unchanged. With
        ``overwrite`` the input may be destroyed."""
        return _filtered(array, {"obj": self.obj, "probe": self.probe}.get(name), overwrite)

    def damp(self, name: str, array: Array, overwrite: bool = False) -> Array:
        """Multiply by the soft edge of the band limit if there is one, else project."""
        soft = {"obj": self.obj_steps, "probe": self.probe_steps}.get(name)
        return self.limit(name, array, overwrite) if soft is None else _filtered(array, soft, overwrite)


def _filtered(array: Array, mask: Array, overwrite: bool = False) -> Array:
    """Multiply the spectrum of the last two axes by a symmetric mask; a real array stays real."""
    if mask is None:
        return array
    spectrum = fft.fft2(array, overwrite)
    spectrum *= mask
    # for a real array the imaginary part is only rounding, as the mask is symmetric
    filtered = fft.ifft2(spectrum, overwrite=True)
    return filtered if array.dtype.kind == "c" else array_module(array).ascontiguousarray(filtered.real)


@dataclass(frozen=True, kw_only=True)
class Parametrization:
    """Maps the unknowns to the vector that the optimiser moves, and gradients along with them.

    The object may be moved as a complex number, by its phase alone (O = |O| exp(i theta)), or by amplitude and phase
    (O = a exp(i theta), stacked on a new first axis); the probe as a complex number, or by the phase or the amplitude
    of its spectrum alone. A real parametrisation has the same band limit as the complex one. Positions may be moved
    independently, by an affine map of the whole scan, or by everything except an affine map (jitter).

    Attributes
    ----------
    limits : subspaces
    obj : one of :data:`OBJECT_FORMS`
    probe : one of :data:`PROBE_FORMS`
    positions : one of :data:`POSITION_FORMS`
    scan_basis : (N, 3) orthonormal columns that span the affine maps of the scan; None when positions are free
    filters : step filters by block; a block without an entry is not filtered
    current_groups : numbers of the patterns that share a probe whose power is free, one array per probe. A factor on
        the beam currents of such a group is the same as a factor on its probe, so steps keep the mean current of each
        group; empty when the power is not free
    """

    limits: BandLimits
    obj: str = "complex"
    probe: str = "complex"
    positions: str = "free"
    scan_basis: Array = None
    filters: Mapping[str, StepFilter] = field(default_factory=dict)
    current_groups: tuple[Array, ...] = ()

    def vector(self, variables: Variables, names: Iterable[str]) -> dict[str, Array]:
        """The named blocks as the optimiser moves them."""
        blocks = variables.blocks(names)
        if "obj" in blocks and self.obj != "complex":
            blocks["obj"] = self._object_numbers(blocks["obj"])
        if "probe" in blocks and self.probe != "complex":
            spectrum = fft.fft2(blocks["probe"])
            xp = array_module(spectrum)
            blocks["probe"] = xp.angle(spectrum) if self.probe == "fourier_phase" else abs(spectrum)
        return blocks

    def _object_numbers(self, obj: Array) -> Array:
        xp = array_module(obj)
        phase = xp.angle(obj)
        # (O, z, Y, X) -> the same for a phase, (2, O, z, Y, X) for amplitude and phase
        return phase if self.obj == "phase" else xp.stack([abs(obj), phase])

    def variables(self, base: Variables, vector: Mapping[str, Array]) -> Variables:
        """Inverse of :meth:`vector`. ``base`` provides everything else: the other blocks, the amplitude if only the
        phase is moved, and the phase if only the amplitude is moved."""
        blocks = dict(vector)
        if "obj" in blocks and self.obj != "complex":
            numbers = blocks["obj"]
            # (2, O, z, Y, X) unpacks along its first axis
            amplitude, phase = (abs(base.obj), numbers) if self.obj == "phase" else numbers
            blocks["obj"] = polar(amplitude, phase, base.obj.dtype)
        if "probe" in blocks and self.probe != "complex":
            # the part of the spectrum that is not moved comes from the base
            spectrum = fft.fft2(base.probe)
            xp = array_module(spectrum)
            if self.probe == "fourier_phase":
                spectrum = polar(abs(spectrum), blocks["probe"], spectrum.dtype)
            else:
                spectrum = polar(blocks["probe"], xp.angle(spectrum), spectrum.dtype)
            blocks["probe"] = fft.ifft2(spectrum, overwrite=True)
        return base.replace(blocks)

    def gradient(
        self,
        base: Variables,
        vector: Mapping[str, Array],
        gradients: Mapping[str, Array],
        at: Variables | None = None,
    ) -> dict[str, Array]:
        """The gradient with respect to the vector, inside the subspaces; see :meth:`gradient_as_it_is`."""
        return self.project(self.gradient_as_it_is(base, vector, gradients, at))

    def gradient_as_it_is(
        self,
        base: Variables,
        vector: Mapping[str, Array],
        gradients: Mapping[str, Array],
        at: Variables | None = None,
    ) -> dict[str, Array]:
        """The gradient with respect to the vector.

        With G = dL/dRe + i dL/dIm: dL/dtheta = Im(G conj(O)), dL/da = Re(G exp(-i theta)); for the probe the same
        with its spectrum and F[G]/n^2.

        Parameters
        ----------
        base : as in :meth:`variables`
        gradients : of the loss with respect to the unknowns, at ``variables(base, vector)``
        at : those variables, if they are known already
        """
        out = dict(gradients)
        if "obj" in out and self.obj != "complex":
            obj = self.variables(base, {"obj": vector["obj"]}).obj if at is None else at.obj
            numbers = vector["obj"][None] if self.obj == "phase" else vector["obj"]
            along = _polar_gradient(out["obj"], obj, numbers)
            out["obj"] = along[0] if self.obj == "phase" else along
        if "probe" in out and self.probe != "complex":
            # the gradient with respect to the spectrum, F[G]/n^2
            grad = fft.ifft2_adjoint(out["probe"])
            if self.probe == "fourier_phase":
                spectrum = fft.fft2(self.variables(base, {"probe": vector["probe"]}).probe)
                out["probe"] = (grad * spectrum.conj()).imag
            else:
                out["probe"] = (grad * _unit(fft.fft2(base.probe)).conj()).real
        return out

    def signs(self, vector: Mapping[str, Array]) -> dict[str, Array]:
        """-1 for amplitudes that a step made negative, else 1: mapped to the unknowns and back, they change sign.
        Blocks without negative amplitudes are left out."""
        out = {}
        if "obj" in vector and self.obj == "amplitude_phase" and bool((vector["obj"][0] < 0).any()):
            xp = array_module(vector["obj"])
            amplitude = xp.where(vector["obj"][0] < 0, -1.0, 1.0)
            # (2, O, z, Y, X): phases keep their sign
            out["obj"] = xp.stack([amplitude, xp.ones_like(amplitude)])
        if "probe" in vector and self.probe == "fourier_amplitude" and bool((vector["probe"] < 0).any()):
            out["probe"] = array_module(vector["probe"]).where(vector["probe"] < 0, -1.0, 1.0)
        return {name: sign.astype(vector[name].dtype) for name, sign in out.items()}

    def project(self, vector: Mapping[str, Array], overwrite: bool = False) -> dict[str, Array]:
        """Orthogonal projection of every block on its subspace; with ``overwrite`` the input may be destroyed.

        The projected gradient is that of the problem restricted to the subspace, so steps stay in it.
        """
        return {name: self._in_subspace(name, array, False, overwrite) for name, array in vector.items()}

    def damp(self, vector: Mapping[str, Array], overwrite: bool = False) -> dict[str, Array]:
        """P G of every block: filtered (:attr:`filters`), then as :meth:`project`, with the soft edge of the band
        limits where there is one; with ``overwrite`` the input may be destroyed."""
        return {
            name: self._in_subspace(name, self._smoothed(name, array), True, overwrite)
            for name, array in vector.items()
        }

    def damp_adjoint(self, gradient: Mapping[str, Array]) -> dict[str, Array]:
        """G^T P, the transpose of :meth:`damp`."""
        return self.filter_adjoint(
            {name: self._in_subspace(name, array, True) for name, array in gradient.items()}
        )

    def filter_adjoint(self, gradient: Mapping[str, Array]) -> dict[str, Array]:
        """G^T of every block that has filters."""
        return {
            name: self.filters[name].adjoint(array, self._form(name)) if name in self.filters else array
            for name, array in gradient.items()
        }

    def _smoothed(self, name: str, array: Array) -> Array:
        return self.filters[name].apply(array, self._form(name)) if name in self.filters else array

    def _form(self, name: str) -> str:
        return self.obj if name == "obj" else ""

    def _in_subspace(self, name: str, array: Array, soft: bool, overwrite: bool = False) -> Array:
        if name == "probe" and self.probe != "complex":  # it is a spectrum already
            mask = (
                self.limits.probe_steps if soft and self.limits.probe_steps is not None else self.limits.probe
            )
            return array if mask is None else array * mask
        if name == "positions" and self.scan_basis is not None:
            # (N, 3) @ ((3, N) @ (N, 2)) -> (N, 2): never a matrix of N x N
            affine = self.scan_basis @ (self.scan_basis.T @ array)
            return affine if self.positions == "affine" else array - affine
        if name == "beam_current" and self.current_groups:
            centred = array.copy()
            for group in self.current_groups:
                centred[group] -= array[group].mean()
            return centred
        limited = self.limits.damp if soft else self.limits.limit
        return limited(name, array, overwrite)

    def diagonal(self, variables: Variables, diagonal: Mapping[str, Array]) -> dict[str, Array]:
        """The curvature with respect to the vector, from that with respect to the complex blocks."""
        out = dict(diagonal)
        if "obj" in out and self.obj != "complex":
            # |dO/dtheta|^2 = |O|^2 and |dO/da|^2 = 1; the floor keeps steps in dark pixels bounded
            square = abs2(variables.obj)
            along_phase = out["obj"] * (square + _DARK * square.max())
            xp = array_module(square)
            out["obj"] = (
                along_phase
                if self.obj == "phase"
                else xp.stack([xp.broadcast_to(out["obj"], square.shape), along_phase])
            )
        if "probe" in out and self.probe != "complex":
            power = abs2(fft.fft2(variables.probe))
            # a multiplication by d(r) in real space mixes frequencies; its diagonal in reciprocal space
            # is the mean of d, divided by n^2 for the normalisation of F^-1
            scale = out["probe"].mean() / (power.shape[-1] * power.shape[-2])
            if self.probe == "fourier_phase":
                out["probe"] = scale * (power + _DARK * power.max())
            else:
                # |dP^/da| = 1 for the amplitude: the same curvature for all frequencies
                out["probe"] = array_module(power).full((1,) * power.ndim, scale)
        return out


def _polar_gradient(gradient: Array, obj: Array, numbers: Array) -> Array:
    """dL/dtheta (1, ...) from the phase, or dL/da and dL/dtheta (2, ...) from amplitude and phase."""
    if not isinstance(obj, np.ndarray):
        return _polar_gradient_on_device(gradient, obj, numbers)
    # G conj(O) = a G exp(-i theta): its imaginary part is dL/dtheta, its real part a dL/da
    turned = gradient * obj.conj()
    if len(numbers) == 1:
        return np.ascontiguousarray(turned.imag)[None]
    return np.stack([_along_amplitude(turned, numbers, gradient), turned.imag])


def _polar_gradient_on_device(gradient: Array, obj: Array, numbers: Array) -> Array:
    xp = array_module(obj)
    slope, z = (xp.ascontiguousarray(array, dtype=obj.dtype) for array in (gradient, obj))
    given = xp.ascontiguousarray(numbers, dtype=obj.real.dtype)
    along = xp.empty_like(given)
    amplitude, along_amplitude = (given[0], along[0]) if len(given) == 2 else (None, None)
    step_kernels(obj.dtype).polar_gradient(slope, z, amplitude, given[-1], along_amplitude, along[-1])
    return along


def _along_amplitude(turned: np.ndarray, numbers: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Re(G exp(-i theta)) from G conj(O) = G a exp(-i theta); where a is 0, G and the phase give it directly."""
    amplitude, phase = numbers
    # 1 in place of 0 avoids a division whose result is replaced anyway
    black = amplitude == 0
    along = turned.real / np.where(black, amplitude.dtype.type(1), amplitude)
    if bool(black.any()):
        along = np.where(black, (gradient * np.exp(-1j * phase)).real.astype(along.dtype), along)
    return along


def affine_basis(positions: Array) -> Array:
    """(N, 3) orthonormal columns spanning y, x and 1 of the positions: steps in their span shift, rotate, scale
    and shear the scan. Fewer columns for a scan along a line."""
    xp = array_module(positions)
    centred = positions - positions.mean(axis=0)
    columns = xp.concatenate(
        [centred / max(float(abs(centred).max()), 1.0), xp.ones((len(positions), 1))], axis=1
    )
    # (N, 3), scaled to comparable sizes, so that the threshold below finds the rank
    left, size, _ = xp.linalg.svd(columns, full_matrices=False)
    return left[:, : int((size > 1e-9 * size[0]).sum())]


def polar(amplitude: Array, phase: Array, dtype: Any) -> Array:
    """a exp(i phi), arrays of one shape. By cosine and sine: several times faster than a complex exponential."""
    xp = array_module(phase)
    out = xp.empty(phase.shape, dtype)
    if not isinstance(phase, np.ndarray):
        a, phi = (xp.ascontiguousarray(array, dtype=out.real.dtype) for array in (amplitude, phase))
        step_kernels(out.dtype).polar(a, phi, out)
        return out
    # written into the two halves of a complex array, without temporaries of its size
    xp.multiply(amplitude, xp.cos(phase), out=out.real, casting="same_kind")
    xp.multiply(amplitude, xp.sin(phase), out=out.imag, casting="same_kind")
    return out


def _unit(array: Array) -> Array:
    """exp(i arg z); 1 where z = 0."""
    xp = array_module(array)
    return xp.exp(1j * xp.angle(array)).astype(array.dtype)

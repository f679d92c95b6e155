"""Edits of the probe: orthogonal modes."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Array, array_module, to_host


def orthogonal_rotation(probe: Array) -> np.ndarray:
    """(subscan, mode, mode) unitary W for which the modes W P are orthogonal, the strongest first
    (``keep_probe_states_orthogonal``).

    With the singular value decomposition of the modes as rows, P = U S V^H, W = U^H. It is unitary, so the density
    matrix sum_k P_k(r) P_k*(r'), the intensity sum_k |P_k(r)|^2 and every diffraction pattern are the same for W P, and
    the gradient of the loss at W P is W times that at P. (Gram-Schmidt, which PyPty 2.2 uses, spans the same space but
    loses power.) The phase of a new mode is that of the old mode with the largest contribution to it, so that modes
    that are orthogonal and in order stay as they are. Each subscan has a separate U.

    The freedom in the choice of modes: Thibault and Menzel, Nature 494 (2013) 68.

    Parameters
    ----------
    probe : (mode, y, x) or (subscan, mode, y, x) complex
    """
    return np.stack([_rotation(rows.astype(np.complex128)) for rows in _subscans(to_host(probe))])


def rotated(modes: Array, rotation: np.ndarray) -> Array:
    """W P for (mode, y, x) or (subscan, mode, y, x) modes: a probe, its gradient, or a step of it.

    Computed in double precision, so that it stays a rotation.
    """
    # (subscan, mode, y, x) -> (subscan, mode, y x)
    rows = modes.reshape(len(rotation), modes.shape[-3], -1).astype(np.complex128)
    turned = array_module(modes).asarray(rotation) @ rows
    return turned.reshape(modes.shape).astype(modes.dtype)


def are_orthogonal(probe: Array, tolerance: float) -> bool:
    """Whether :func:`orthogonal_rotation` would change nothing beyond ``tolerance``.

    In every subscan |<P_j, P_k>| <= tolerance sqrt(<P_j, P_j> <P_k, P_k>) for all pairs, and no mode is stronger than
    the one before by more than the fraction ``tolerance`` of its power.

    Parameters
    ----------
    probe : (mode, y, x) or (subscan, mode, y, x) complex
    tolerance : a little above the rounding of the probe's precision, or more
    """
    for modes in _subscans(to_host(probe)):
        rows = modes.astype(np.complex128)
        gram = rows @ rows.conj().T  # (mode, mode) overlaps <P_j, P_k>
        power = gram.diagonal().real
        amplitude = np.sqrt(power)
        overlap = np.abs(gram - np.diag(gram.diagonal()))
        if (overlap > tolerance * np.outer(amplitude, amplitude)).any():
            return False
        if (power[1:] > (1 + tolerance) * power[:-1]).any():
            return False
    return True


def _subscans(probe: np.ndarray) -> np.ndarray:
    """The probe as (subscan, mode, pixel); a view where it is contiguous."""
    return probe.reshape(-1, probe.shape[-3], probe.shape[-2] * probe.shape[-1])


def _rotation(rows: np.ndarray) -> np.ndarray:
    """(mode, mode) W for modes as rows (mode, pixel). After a QR decomposition the SVD is that of a small matrix."""
    # rows^H = Q R, so rows = R^H Q^H has the U of R^H, (mode, mode)
    triangle = np.asarray(np.linalg.qr(rows.conj().T, mode="r"))
    unitary = np.linalg.svd(triangle.conj().T)[0]
    largest = np.abs(unitary).argmax(axis=0)
    phase = np.exp(-1j * np.angle(unitary[largest, np.arange(len(rows))]))
    return (unitary * phase).conj().T

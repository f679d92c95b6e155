"""Changes of the probe by hand: orthogonal modes."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Array, array_module, to_host


def orthogonal_modes(probe: Array) -> Array:
    """The same incoherent probe, written in orthogonal modes, the strongest first (``keep_probe_states_orthogonal``).

    Singular value decomposition of the modes as rows, P = U S V^H; the new modes are S V^H = U^H P. U is unitary, so
    the density matrix sum_k P_k(r) P_k*(r'), the intensity sum_k |P_k(r)|^2 and every diffraction pattern are kept, and
    with them the loss. (Gram-Schmidt, which PyPty 2.2 uses, spans the same space but loses power.) The phase of a new
    mode is that of the old mode which has the largest part in it: modes that are orthogonal and in order stay as
    they are. Each subscan has its own U.

    Source: Thibault & Menzel, Nature 494 (2013) 68, for the freedom in the choice of modes.

    Parameters
    ----------
    probe : (mode, y, x) or (subscan, mode, y, x) complex
    """
    host = to_host(probe)
    result = np.empty(host.shape, host.dtype)
    for old, new in zip(_subscans(host), _subscans(result), strict=True):
        new[...] = _decomposed(old.astype(np.complex128))
    return array_module(probe).asarray(result)


def are_orthogonal(probe: Array, tolerance: float) -> bool:
    """Whether :func:`orthogonal_modes` would change nothing that counts.

    In every subscan |<P_j, P_k>| <= tolerance sqrt(<P_j, P_j> <P_k, P_k>) for all pairs, and no mode is stronger than
    the one before by more than the fraction ``tolerance`` of its power.

    Parameters
    ----------
    probe : (mode, y, x) or (subscan, mode, y, x) complex
    tolerance : a little above the rounding of the probe's precision, or more
    """
    for modes in _subscans(to_host(probe)):
        rows = modes.astype(np.complex128)
        gram = rows @ rows.conj().T
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


def _decomposed(rows: np.ndarray) -> np.ndarray:
    """Orthogonal rows, longest first, with the density matrix of ``rows`` (mode, pixel)."""
    unitary, length, direction = np.linalg.svd(rows, full_matrices=False)
    largest = np.abs(unitary).argmax(axis=0)
    phase = np.exp(-1j * np.angle(unitary[largest, np.arange(len(length))]))
    result = np.zeros_like(rows)  # with more modes than pixels the last ones are empty
    result[: len(length)] = (length / phase)[:, None] * direction
    return result

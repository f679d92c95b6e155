"""The unitary rotation of probe modes that makes them orthogonal, and its use on anything that rotates with them."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Array, array_module, to_host


def orthogonal_rotation(probe: Array) -> np.ndarray:
    """(subscan, mode, mode) unitary W, for which the modes W P are orthogonal, the strongest first.

    With the singular value decomposition P = U S V^H of the modes as rows, W = U^H, each row with the phase that keeps
    a mode which is orthogonal already. Every incoherent sum over modes is the same for P and W P, so the gradient of
    the loss at W P is W times that at P. (Thibault and Menzel, Nature 494 (2013) 68, for the freedom in the choice of
    modes.)
    """
    host = to_host(probe).astype(np.complex128)
    rows = host.reshape(-1, host.shape[-3], host.shape[-2] * host.shape[-1])
    rotations = []
    for modes in rows:
        _, vectors = np.linalg.eigh(modes @ modes.conj().T)
        unitary = vectors[:, ::-1]  # strongest first
        largest = np.abs(unitary).argmax(axis=0)
        phase = np.exp(-1j * np.angle(unitary[largest, np.arange(len(modes))]))
        rotations.append((unitary * phase).conj().T)
    return np.stack(rotations)


def rotated(modes: Array, rotation: np.ndarray) -> Array:
    """W P for (mode, y, x) or (subscan, mode, y, x) modes: a probe, its gradient or a step of it."""
    xp = array_module(modes)
    matrix = xp.asarray(rotation).astype(modes.dtype)
    rows = modes.reshape(len(rotation), modes.shape[-3], -1)
    return (matrix @ rows).reshape(modes.shape)

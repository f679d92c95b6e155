"""Small deterministic problems and numerical checks, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

BLOCKS = ("obj", "probe", "positions", "slice_distances")
"""Refinable blocks; each is also the name of the parameter that holds its starting value."""


def random_complex(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def random_like(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Normal random numbers of the same shape, complex where ``array`` is."""
    return random_complex(rng, array.shape) if array.dtype.kind == "c" else rng.standard_normal(array.shape)


def inner(a: np.ndarray, b: np.ndarray) -> float:
    """The plain real inner product Re sum a conj(b) (docs/conventions.md)."""
    return float(np.vdot(b, a).real)


def relative(value: np.ndarray | float, expected: np.ndarray | float) -> float:
    """|value - expected| / |expected| in the 2-norm."""
    expected = np.asarray(expected)
    return float(np.linalg.norm(np.asarray(value) - expected) / np.linalg.norm(expected))


def directional_derivative(function: Callable[[float], Any], step: float) -> Any:
    """d/dt function(t) at t = 0 by the five-point central difference; its error is of order step^4."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def assert_adjoint(
    apply: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
    v: np.ndarray,
    y: np.ndarray,
    tolerance: float,
) -> None:
    """<J v, y> = <v, J* y>, relative to |J v| |y|. Both maps get copies: they may overwrite their argument."""
    forward, back = apply(v.copy()), adjoint(y.copy())
    assert forward.shape == y.shape
    assert back.shape == v.shape
    error = abs(inner(forward, y) - inner(v, back))
    assert error <= tolerance * np.linalg.norm(forward) * np.linalg.norm(y)


def small_problem(
    seed: int = 0,
    *,
    window: tuple[int, int] = (16, 20),
    probe_modes: int = 2,
    object_modes: int = 2,
    slices: int = 3,
    n_positions: int = 6,
    subpixel: bool = True,
    counts: float = 2000.0,
    **changes: Any,
) -> dict[str, Any]:
    """Parameters of a tiny reconstruction: rectangular window, unequal pixels, individual slice distances.

    Model and data are unrelated random numbers of the same scale, so that no gradient is small by chance. Every
    block that can be refined is. ``window`` is the window of the model: the patterns are made smaller or larger
    when ``data_pad`` or ``data_bin`` say so.

    Parameters
    ----------
    subpixel : positions are off the pixel grid, but far from the middle between two pixels, where the corner jumps
    counts : sum of a pattern
    changes : further parameters, or other values
    """
    rng = np.random.default_rng(seed)
    ny, nx = window
    whole = rng.integers(0, 8, (n_positions, 2))
    offset = rng.uniform(-0.35, 0.35, (n_positions, 2)) if subpixel else np.zeros((n_positions, 2))
    whole[0], offset[0] = 0, np.abs(offset[0])
    shape = (ny + 8, nx + 8, slices, object_modes)
    obj = np.exp(-np.abs(0.1 * rng.standard_normal(shape)) + 0.4j * rng.standard_normal(shape))
    probe = random_probe(rng, window, probe_modes, counts / object_modes)
    pad, size = changes.get("data_pad", 0), changes.get("data_bin", 1)
    measured = ((ny - 2 * pad) * size, (nx - 2 * pad) * size)
    params: dict[str, Any] = {
        "dataset": rng.poisson(rng.exponential(counts / np.prod(measured), (n_positions, *measured))).astype(
            np.uint16
        ),
        "obj": obj,
        "probe": probe,
        "positions": whole + offset,
        "slice_distances": rng.uniform(15, 30, max(slices - 1, 1)),
        "acc_voltage": 80.0,
        "pixel_size_y_A": 0.31,
        "pixel_size_x_A": 0.26,
        "algorithm": "lsq_sqrt",
        "default_dtype": "double",
        "skip_preprocessing": True,
        "update_obj": True,
        "update_probe": True,
        "update_probe_pos": True,
        "update_slice_distances": True,
        "backend": "cpu",
        "n_threads": 1,
        "output_folder": "",
        "print_flag": 0,
    }
    return {**params, **changes}


def random_probe(rng: np.random.Generator, window: tuple[int, int], modes: int, counts: float) -> np.ndarray:
    """(y, x, modes) centred probe with a random spectrum everywhere, whose patterns sum to ``counts``."""
    ny, nx = window
    frequency = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)[None, :])
    spectrum = random_complex(rng, (modes, ny, nx)) * np.exp(-((frequency / 0.3) ** 2))
    spectrum *= np.sqrt(counts / (np.abs(spectrum) ** 2).sum())
    return np.fft.fftshift(np.fft.ifft2(spectrum), axes=(1, 2)).transpose(1, 2, 0)


def data_file(folder: Path) -> Path:
    path = folder / "d.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.ones((2, 4, 4))
    return path

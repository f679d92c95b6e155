"""Scans for the tests of calibration: the demo's patterns, turned and spoilt, and patterns with nothing but a disk."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter

from pypty.demo import demo_data

RADIUS_PX = 25.0 / 2.34


def demo_scan(**changes: Any) -> dict[str, Any]:
    """What an experimenter knows of the demo: MoS2, 1e6 electrons/Å^2, overfocus 100 Å, rotation 0."""
    with h5py.File(demo_data(), "r") as file:
        data = file["data"][()]
    return {
        "dataset": data,
        "acc_voltage": 80.0,
        "scan_size": [32, 32],
        "scan_step_A": 0.45,
        "conv_semiangle_mrad": 25.0,
        **changes,
    }


def soft_disk(
    size: int,
    radius: float,
    centre: tuple[float, float],
    blur: float = 0.0,
    ellipse: float = 0.0,
    height: float = 100.0,
    angle: float = 0.0,
) -> np.ndarray:
    """(size, size) disk, integrated over pixels (15 x 15 samples each), with a little around it."""
    fine = 15
    axis = (np.arange(size * fine) + 0.5) / fine - 0.5
    dy, dx = axis[:, None] - centre[0], axis[None, :] - centre[1]
    edge = radius * (1 + ellipse * np.cos(2 * (np.arctan2(dy, dx) - angle)))
    disk = gaussian_filter((np.hypot(dy, dx) < edge).astype(float), blur * fine)
    return height * (disk.reshape(size, fine, size, fine).mean(axis=(1, 3)) + 0.01)


def disk_scan(pattern: np.ndarray, side: int = 8, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Poisson patterns with one mean."""
    data = np.random.default_rng(seed).poisson(pattern, (side * side, *pattern.shape)).astype(np.uint16)
    return {"dataset": data, "acc_voltage": 80.0, "scan_size": [side, side], "scan_step_A": 0.5, **changes}


def transformed(data: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Patterns of which k became matrix @ k (one of the eight flips and transposes), zero frequency at n//2."""
    n = data.shape[-1]
    grid = np.stack(np.indices((n, n)) - n // 2)
    source = np.einsum("ij,jyx->iyx", np.linalg.inv(matrix).round().astype(int), grid) + n // 2
    inside = ((source >= 0) & (source < n)).all(axis=0)
    source = np.clip(source, 0, n - 1)
    return data[:, source[0], source[1]] * inside.astype(data.dtype)


def flat_disk(n: int = 32, radius: float = 6.0, centre: tuple[int, int] | None = None) -> np.ndarray:
    y0, x0 = centre or (n // 2, n // 2)
    y, x = np.ogrid[:n, :n]
    return 100.0 * (np.hypot(y - y0, x - x0) < radius)


def flat_scan(**changes: Any) -> dict[str, Any]:
    given = {
        "dataset": np.broadcast_to(flat_disk(), (4, 9, 32, 32)).astype(np.float32),
        "acc_voltage": 80.0,
        "rez_pixel_size_mrad": 2.0,
        "scan_step_A": 0.5,
    }
    return {**given, **changes}


def simulated_scan(
    size: tuple[int, int] = (14, 14),
    kind: str = "atoms",
    dose: float = 4e3,
    C10_A: float = 90.0,
    step_px: int = 2,
    seed: int = 0,
    side: int = 40,
) -> dict[str, Any]:
    """Poisson patterns (N, side, side) of a thin specimen of atoms ("atoms", "lattice") or without one ("vacuum").

    80 kV, 28 mrad, pixels of 0.25 Å, rows parallel to x. ``positions`` in pixels are part of the parameters.
    """
    rng, pixel_A, semiangle_mrad = np.random.default_rng(seed), 0.25, 28.0
    shape = [side + n * step_px for n in size]
    spikes = np.zeros(shape)
    if kind == "atoms":
        n_atoms = shape[0] * shape[1] // 90
        spikes[rng.integers(0, shape[0], n_atoms), rng.integers(0, shape[1], n_atoms)] = rng.uniform(
            4, 8, n_atoms
        )
    elif kind == "lattice":  # oblique, 3 Å apart
        u, v = np.meshgrid(np.arange(-60, 60), np.arange(-60, 60))
        y, x = np.round(12 * u + 3 * v).astype(int).ravel(), np.round(11 * v - 4 * u).astype(int).ravel()
        inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        spikes[y[inside], x[inside]] = 7.0
    transmission = np.exp(1j * gaussian_filter(spikes, 1.4, mode="wrap"))
    wavelength = 0.0417571
    k = np.fft.fftfreq(side, pixel_A)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    edge = (semiangle_mrad * 1e-3 / wavelength - np.sqrt(k2)) * side * pixel_A + 0.5
    probe = np.fft.fftshift(np.fft.ifft2(np.clip(edge, 0, 1) * np.exp(-1j * np.pi * wavelength * C10_A * k2)))
    probe *= np.sqrt(dose / (np.abs(probe) ** 2).sum())
    grid = np.indices(size).reshape(2, -1).T * step_px
    windows = np.stack([transmission[y : y + side, x : x + side] for y, x in grid])
    waves = np.fft.fftshift(np.fft.fft2(windows * probe, norm="ortho"), axes=(1, 2))
    return {
        "dataset": rng.poisson(np.abs(waves) ** 2).astype(np.uint16),
        "acc_voltage": 80.0,
        "scan_size": list(size),
        "scan_step_A": step_px * pixel_A,
        "conv_semiangle_mrad": semiangle_mrad,
        "rez_pixel_size_mrad": 1e3 * wavelength / (side * pixel_A),
        "positions": grid.astype(float),
    }


def as_snake(data: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Patterns of a raster in the order of a beam that goes every second row backwards."""
    rows = data.reshape(*size, *data.shape[1:]).copy()
    rows[1::2] = rows[1::2, ::-1]
    return rows.reshape(data.shape)


def by_columns(data: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Patterns of a raster in the order of a beam that goes column by column."""
    return data.reshape(*size, *data.shape[1:]).swapaxes(0, 1).reshape(data.shape)

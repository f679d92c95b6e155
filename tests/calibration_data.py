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

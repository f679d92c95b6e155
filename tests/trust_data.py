"""A small simulated experiment whose faults are known, for the tests of pypty.trust.

100 patterns of 32 x 32 pixels of a smooth random phase object, a disk of six pixels' radius, 40 counts per pixel.
Nothing is fitted: the true object and probe are compared with data, or with a geometry, that have a fault.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

import pypty

SIDE, SCAN, STEP_PX = 32, 10, 2.0
COUNTS = 40.0
"""Mean counts of a pixel."""


def positions() -> np.ndarray:
    """(100, 2) [y, x] in pixels, off the pixel grid."""
    y, x = np.meshgrid(np.arange(SCAN) * STEP_PX, np.arange(SCAN) * STEP_PX, indexing="ij")
    return np.stack([y.ravel(), x.ravel()], axis=1) + 3.3


def probe(defocus: float = 3.0, radius_px: float = 6.0) -> np.ndarray:
    """(32, 32, 1) probe of a sharp aperture, with a quadratic phase of ``defocus`` rad at six pixels."""
    f = np.fft.fftfreq(SIDE, 1 / SIDE)
    r2 = (f[:, None] ** 2 + f[None, :] ** 2) / 36
    spectrum = (r2 <= (radius_px / 6) ** 2) * np.exp(-1j * defocus * r2)
    scale = np.sqrt(COUNTS * SIDE**2 / (np.abs(spectrum) ** 2).sum())
    return np.fft.fftshift(np.fft.ifft2(spectrum * scale))[..., None]


@lru_cache
def thing() -> np.ndarray:
    """(60, 60, 1, 1) phase object with detail down to four pixels."""
    size = SIDE + int(SCAN * STEP_PX) + 8
    f = np.fft.fftfreq(size)
    low_pass = np.exp(-(f[:, None] ** 2 + f[None, :] ** 2) / (2 * 0.12**2))
    noise = np.random.default_rng(5).standard_normal((size, size))
    phase = np.fft.ifft2(np.fft.fft2(noise) * low_pass).real
    return np.exp(0.4j * phase / phase.std())[..., None, None]


def model(**changes: Any) -> dict[str, Any]:
    """Parameters of the true model, of which nothing is refined."""
    return {
        "acc_voltage": 80.0,
        "pixel_size_x_A": 0.3,
        "pixel_size_y_A": 0.3,
        "obj": thing(),
        "probe": probe(),
        "positions": positions(),
        "skip_preprocessing": True,
        "damping_cutoff_multislice": 1.0,
        "update_extra_cut": 0,
        "update_obj": False,
        "update_probe": False,
        "algorithm": "ml",
        "default_dtype": "double",
        "backend": "cpu",
        "n_threads": 1,
        "print_flag": 0,
        **changes,
    }


@lru_cache
def intensities() -> np.ndarray:
    """(100, 32, 32) mean counts of the true model."""
    patterns = pypty.simulate(model())
    patterns.setflags(write=False)
    return patterns


def counts(mean: np.ndarray | None = None, seed: int = 1) -> np.ndarray:
    """Counts with Poisson noise, of the true model or of other means."""
    return np.random.default_rng(seed).poisson(intensities() if mean is None else mean)

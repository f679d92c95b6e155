"""One small reconstruction problem that the tests of parameters, data and output share.

25 patterns of 16 x 16 pixels of a smooth random phase object, computed with ``pypty.simulate``. A run of three
epochs takes about a tenth of a second. :func:`every_block` adds every other unknown that there is.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import pypty
from pypty.engine.epochs.problem import SWITCHES

SIDE = 16
"""Pixels of a pattern along each axis."""
SCAN = (5, 5)
"""Scan points (slow, fast)."""
N_PATTERNS = SCAN[0] * SCAN[1]
COUNTS = 2000.0
"""Electrons per pattern."""
_OPTICS: dict[str, Any] = {"acc_voltage": 80.0, "pixel_size_x_A": 0.4, "pixel_size_y_A": 0.4}


def scan_positions(step: float = 2.0) -> np.ndarray:
    """(25, 2) [y, x] in pixels; whole numbers for a whole ``step``."""
    y, x = np.meshgrid(np.arange(SCAN[0]) * step, np.arange(SCAN[1]) * step, indexing="ij")
    return np.stack([y.ravel(), x.ravel()], axis=1)


def aperture_probe(defocus: float = 1.0) -> np.ndarray:
    """(16, 16, 1) probe of a small aperture with a quadratic phase of ``defocus`` rad at its edge."""
    f = (np.arange(SIDE) - SIDE // 2) / (0.25 * SIDE)
    r2 = f[:, None] ** 2 + f[None, :] ** 2
    spectrum = (r2 <= 1) * np.exp(-1j * defocus * r2)
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum)))
    scale = np.sqrt(COUNTS / (np.abs(spectrum) ** 2).sum())
    return (probe * scale)[..., None]


def smooth_object(n_slices: int = 1, seed: int = 7) -> np.ndarray:
    """(28, 28, slices, 1) phase object without high frequencies."""
    size = SIDE + 12
    rng = np.random.default_rng(seed)
    f = np.fft.fftfreq(size)
    low_pass = np.exp(-(f[:, None] ** 2 + f[None, :] ** 2) / (2 * 0.08**2))
    phases = [
        np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * low_pass).real for _ in range(n_slices)
    ]
    phase = np.stack([0.3 / n_slices * p / p.std() for p in phases], axis=-1)
    return np.exp(1j * phase)[..., None]


@lru_cache
def _patterns(n_slices: int) -> np.ndarray:
    patterns = pypty.simulate(
        {
            **_OPTICS,
            "obj": smooth_object(n_slices),
            "probe": aperture_probe(1.0),
            "positions": scan_positions(),
            "slice_distances": [12.0],
            "skip_preprocessing": True,
            "backend": "cpu",
            "n_threads": 1,
        }
    )
    patterns.setflags(write=False)
    return patterns


def patterns(n_slices: int = 1) -> np.ndarray:
    """(25, 16, 16) noise-free counts of the true object and probe, a fresh copy."""
    return _patterns(n_slices).copy()


def counts(dtype: str = "uint16") -> np.ndarray:
    """The patterns as whole counts that fit into eight bits, in ``dtype``."""
    data = _patterns(1)
    return np.round(data * (250 / data.max())).astype(dtype)


def small_params(**changes: Any) -> dict[str, Any]:
    """A dict ready for ``pypty.run``: 3 epochs, one slice, amplitudes, double precision, one thread, silent.

    Parameters
    ----------
    changes : keys to set; the value ``...`` removes the key
    """
    params: dict[str, Any] = {
        **_OPTICS,
        "dataset": patterns(),
        "positions": scan_positions(),
        "probe": aperture_probe(0.7),
        "epoch_max": 3,
        "backend": "cpu",
        "n_threads": 1,
        "compute_batch": 10,
        "default_dtype": "double",
        "print_flag": 0,
        "warmup_epochs": 0,
    }
    if "loss_terms" not in changes:  # beside which it has no effect
        params["algorithm"] = "lsq_sqrt"
    params.update(changes)
    return {key: value for key, value in params.items() if value is not ...}


def write_preset(folder: Path, **changes: Any) -> Path:
    """The parameters of :func:`small_params` as a file with its arrays beside it; ``output_folder`` is "out" there."""
    plain: dict[str, Any] = {}
    for key, value in small_params(**{"output_folder": str(folder / "out"), **changes}).items():
        if isinstance(value, np.ndarray):
            np.save(folder / f"{key}.npy", value)
            plain[key] = {"file": f"{key}.npy"}
        else:
            plain[key] = value
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def two_slices(**changes: Any) -> dict[str, Any]:
    """As :func:`small_params`, with data of two slices 12 Å apart and a start that has them 10 Å apart."""
    return small_params(
        **{"dataset": patterns(2), "num_slices": 2, "slice_distances": [10.0], **changes},
    )


def every_block(**changes: Any) -> dict[str, Any]:
    """As :func:`two_slices`, with two probes and every unknown there is; all are refined, and the start is off."""
    rng = np.random.default_rng(3)
    return two_slices(
        **{
            "probe": np.stack([aperture_probe(0.7), aperture_probe(1.2)], axis=3),
            "probe_marker": np.arange(N_PATTERNS) % 2,
            "tilts": 1e-3 * rng.standard_normal((N_PATTERNS, 6)),
            "tilt_mode": 4,
            "aberrations_array": 2 * rng.standard_normal((2, 3)),
            "aberration_marker": np.arange(N_PATTERNS) // 13,
            "static_background": 4.0,
            "beam_current": 1 + 0.05 * rng.standard_normal(N_PATTERNS),
            "detector_blur_std": 0.4,
            "detector_gains": 1 + 0.05 * rng.standard_normal((2, 2)),
            **dict.fromkeys(SWITCHES, True),
            **changes,
        }
    )

"""The simulated data of benchmarks/trust.py, with their truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.quality import phase_agreement
from pypty.results.result import Result

DOSE = 1e6
"""Electrons/Å^2."""
SIDE, EPOCHS = 16, 20
"""Scan points along each side, and epochs of each run."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Patterns of the middle of a scan, with the truth.

    Attributes
    ----------
    patterns : (N, ky, kx) noise-free counts, or counts
    positions_A, ideal_A : (N, 2) [y, x], true, and as the scan was meant
    truth : (Y, X) phase in rad, pixel (0, 0) at (0, 0) Å
    pixel_A : pixel of the truth, and of the reconstruction
    """

    patterns: np.ndarray
    positions_A: np.ndarray
    ideal_A: np.ndarray
    truth: np.ndarray
    pixel_A: float
    attributes: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, side: int, dose: float = DOSE) -> Experiment:
        """The middle of a simulated data set; fractions of the beam become mean counts at ``dose`` electrons/Å^2."""
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            n = int(attributes["scan_shape"][0])
            first = (n - side) // 2
            chosen = np.arange(n * n).reshape(n, n)[first : first + side, first : first + side].ravel()
            patterns = file["data"][()][chosen]
            if patterns.dtype.kind == "f":
                patterns = patterns.astype(float) * dose * float(attributes["scan_step_A"]) ** 2
            return cls(
                patterns=patterns,
                positions_A=file["positions_true_A"][()][chosen],
                ideal_A=file["positions_ideal_A" if "positions_ideal_A" in file else "positions_A"][()][
                    chosen
                ],
                truth=file["truth/phase_total"][()].astype(float),
                pixel_A=float(attributes["pixel_size_A"]),
                attributes=attributes,
            )

    def params(
        self, data: np.ndarray, positions_A: np.ndarray | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Parameters of a right run; without padding, its pixels are those of the truth."""
        places = self.positions_A if positions_A is None else positions_A
        n, pad = data.shape[1], int(changes.get("data_pad", 0))
        pixel = self.pixel_A * n / (n + 2 * pad) * changes.pop("pixel_scale", 1.0)
        return {
            "dataset": data,
            "positions": places / pixel,
            "acc_voltage": float(self.attributes["voltage_kV"]),
            "pixel_size_x_A": pixel,
            "pixel_size_y_A": pixel,
            "extra_probe_defocus": float(self.attributes["C10_A"]),
            "algorithm": "ml",
            "default_dtype": "single",
            "damping_cutoff_multislice": 1.0,
            "update_extra_cut": 0,
            "epoch_max": EPOCHS,
            "print_flag": 0,
            **changes,
        }

    def fixed_probe(self, defocus_A: float = 0.0, aperture: float = 1.0) -> dict[str, Any]:
        """A probe that is not refined, of the nominal aperture and defocus, or off by these."""
        half = self.patterns.shape[1] // 2 * float(self.attributes["angular_sampling_mrad"])
        return {
            "update_probe": False,
            "probe": "aperture",
            "aperture_mask": float(self.attributes["semiangle_mrad"]) / half * aperture,
            "aberrations": [float(self.attributes["C10_A"]) + defocus_A],
            "extra_probe_defocus": 0.0,
        }

    def correlation(self, result: Result) -> float:
        """Of the phase with the truth, inside the scan."""
        pixel = float(result.pixel_size_A[0])
        centres = (result.positions + np.array(result.probe.shape[:2]) // 2) * pixel
        return phase_agreement(
            result.phase,
            pixel,
            origin_A=(self.positions_A - centres).mean(axis=0),
            truth=self.truth,
            truth_pixel_A=self.pixel_A,
            area_A=np.stack([self.positions_A.min(axis=0), self.positions_A.max(axis=0)]),
            search_A=0.3,
        ).correlation

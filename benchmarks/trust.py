"""What a verdict says of reconstructions whose faults are known.

    python benchmarks/trust.py faults --data FOLDER     # twelve faults, one at a time: is each found, and named?

FOLDER holds mos2_inf.h5 (a MoS2 monolayer, noise free) and sto_thick_1e7.h5 (156 Å of SrTiO3), with their truth.
Counts are drawn with fixed seeds: 10⁶ electrons/Å^2 at 16 x 16 positions. "corr" is the correlation of the phase with
the truth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter

import pypty
from pypty.quality import phase_agreement
from pypty.results.result import Result
from pypty.trust.quality import REGIONS, FitQuality

DOSE = 1e6
"""Electrons/Å^2."""
SIDE, EPOCHS = 16, 20
"""Scan points along each side, and epochs of each run."""
SEED, FAULT_SEED = 11, 3
STO_SIDE = 10
CHANGED = 0.005
"""Change of the correlation with the truth above which a verdict must not be good."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Patterns of the middle of a scan, with the truth.

    Attributes
    ----------
    patterns : (N, ky, kx) noise-free counts, or counts
    positions_A : (N, 2) [y, x]
    truth : (Y, X) phase in rad, pixel (0, 0) at (0, 0) Å
    pixel_A : pixel of the truth, and of the reconstruction
    """

    patterns: np.ndarray
    positions_A: np.ndarray
    truth: np.ndarray
    pixel_A: float
    attributes: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, side: int) -> Experiment:
        """The middle of a simulated data set; fractions of the beam become mean counts."""
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            n = int(attributes["scan_shape"][0])
            first = (n - side) // 2
            chosen = np.arange(n * n).reshape(n, n)[first : first + side, first : first + side].ravel()
            patterns = file["data"][()][chosen]
            if patterns.dtype.kind == "f":
                patterns = patterns.astype(float) * DOSE * float(attributes["scan_step_A"]) ** 2
            return cls(
                patterns=patterns,
                positions_A=file["positions_true_A"][()][chosen],
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


GEOMETRY = ("geometry", "small misfit")
_RIGHT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rotation 2°": GEOMETRY,
        "transposed scan": ("geometry", "wrong model"),
        "fixed probe, defocus +20 Å": ("probe",),
        "fixed probe, defocus +50 Å": ("probe",),
        "fixed probe, aperture -4 %": ("probe",),
        "positions 0.1 Å": ("positions",),
        "positions 0.3 Å": ("positions",),
        "pixel +2 %": GEOMETRY,
        "step +2 %": GEOMETRY,
        "gain 2": ("gain",),
        "detector blur 0.6 px": ("detector blur",),
        "source size 0.28 Å": ("coherence",),
        "dead pixels": ("pixels",),
        "one slice, thick crystal": ("wrong model", "thickness", "dark field"),
    }
)
"""The kinds that name each fault rightly."""


def mos2_runs(mos2: Experiment) -> dict[str, dict[str, Any]]:
    """Parameters of the right run, and of one run for each fault."""
    rng = np.random.default_rng(FAULT_SEED)
    places, centre = mos2.positions_A, mos2.positions_A.mean(axis=0)
    counts = np.random.default_rng(SEED).poisson(mos2.patterns)

    def drawn(patterns: np.ndarray) -> np.ndarray:
        return np.random.default_rng(SEED).poisson(np.maximum(patterns, 0))

    def jitter(sigma_A: float) -> np.ndarray:
        return places + rng.normal(0, sigma_A / np.sqrt(2), places.shape)

    cosine, sine = np.cos(np.deg2rad(2)), np.sin(np.deg2rad(2))
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    raster = places.reshape(SIDE, SIDE, 2)
    on_raster = mos2.patterns.reshape(SIDE, SIDE, *mos2.patterns.shape[1:])
    weights = ((0, 0, 0.6), (0, 1, 0.1), (1, 0, 0.1), (0, -1, 0.1), (-1, 0, 0.1))
    source = sum(weight * np.roll(on_raster, (y, x), (0, 1)) for y, x, weight in weights)
    dead = counts.copy()
    dead[:, rng.random(dead.shape[1:]) < 0.005] = 0
    blurred = gaussian_filter(mos2.patterns, (0, 0.6, 0.6))
    return {
        "right": mos2.params(counts),
        "right, padded": mos2.params(counts, data_pad=16, damping_cutoff_multislice=2 / 3),
        "right, probe fixed": mos2.params(counts, **mos2.fixed_probe()),
        "rotation 2°": mos2.params(counts, (places - centre) @ rotation.T + centre),
        "transposed scan": mos2.params(counts, raster.transpose(1, 0, 2).reshape(-1, 2)),
        "fixed probe, defocus +20 Å": mos2.params(counts, **mos2.fixed_probe(20)),
        "fixed probe, defocus +50 Å": mos2.params(counts, **mos2.fixed_probe(50)),
        "fixed probe, aperture -4 %": mos2.params(counts, **mos2.fixed_probe(0, 0.96)),
        "positions 0.3 Å": mos2.params(counts, jitter(0.3)),
        "positions 0.1 Å": mos2.params(counts, jitter(0.1)),
        "pixel +2 %": mos2.params(counts, pixel_scale=1.02),
        "step +2 %": mos2.params(counts, (places - centre) * 1.02 + centre),
        "gain 2": mos2.params(2 * counts),
        "detector blur 0.6 px": mos2.params(drawn(blurred)),
        "source size 0.28 Å": mos2.params(drawn(np.reshape(source, mos2.patterns.shape))),
        "dead pixels": mos2.params(dead),
    }


def one_slice(sto: Experiment) -> dict[str, Any]:
    """A thick crystal described by one slice in its middle."""
    middle = float(sto.attributes["thickness_A"]) / 2
    return sto.params(
        sto.patterns, **{**sto.fixed_probe(middle), "update_probe": True, "slice_distances": [10.0]}
    )


def row(name: str, result: Result, correlation: float, right: float, seconds: float) -> str:
    """One line of the table."""
    verdict, fit = result.verdict, result.fit_quality()
    first = verdict.signatures[0].kind if verdict.signatures else "-"
    named = ""
    if name in _RIGHT:
        named = "yes" if first in _RIGHT[name] else "NO"
    ratios = [fit.regions[key].ratio if key in fit.regions else np.nan for key in REGIONS]
    cells = [
        name,
        f"{fit.ratio:.3f}",
        *(f"{value:.3f}" for value in ratios),
        f"{fit.pattern_spread:.3f}",
        f"{fit.pix:.4f}",
        f"{fit.scan:.4f}",
        first,
        named,
        verdict.level,
        f"{correlation:.4f}",
        f"{correlation - right:+.4f}",
        f"{seconds:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def faults(folder: Path) -> None:
    """Inject faults one at a time."""
    mos2, sto = (
        Experiment.read(folder / "mos2_inf.h5", SIDE),
        Experiment.read(folder / "sto_thick_1e7.h5", STO_SIDE),
    )
    print(
        "| run | ratio | bright | edge | dark | p95/median | pix | scan | first signature | right kind | verdict "
        "| corr | change | s |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    right, named, hidden = np.nan, 0, []
    for name, params in {**mos2_runs(mos2), "one slice, thick crystal": one_slice(sto)}.items():
        started = time.perf_counter()
        result = pypty.run(params)
        seconds = time.perf_counter() - started
        thick = name == "one slice, thick crystal"
        correlation = (sto if thick else mos2).correlation(result)
        if name == "right":
            right, best = correlation, result
        line = row(name, result, correlation, np.nan if thick else right, seconds)
        named += "| yes |" in line
        changed = thick or abs(correlation - right) > CHANGED
        hidden += [name] if changed and result.verdict.level == "good" else []
        print(line, flush=True)
    print(
        f"\nfirst signature of the right kind: {named} of {len(_RIGHT)}; good although changed: {hidden or 'none'}"
    )
    _model_and_noise(mos2, best)


def _model_and_noise(mos2: Experiment, result: Result) -> None:
    """Counts drawn from the model itself: every number is that of noise."""
    start = {**mos2.params(mos2.patterns), **result.params()}
    model = pypty.simulate(start)
    fit: FitQuality = pypty.fit_quality({**start, "dataset": np.random.default_rng(SEED).poisson(model)})
    print(
        f"model + Poisson noise: ratio {fit.ratio:.4f} ± {fit.ratio_error:.4f}, pix {fit.pix:+.4f} ± "
        f"{fit.pix_error:.4f}, scan {fit.scan:+.4f} ± {fit.scan_error:.4f}"
    )


SECTIONS: Mapping[str, Callable[[Path], None]] = MappingProxyType({"faults": faults})


def main() -> None:
    """Run the sections that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help="default: all")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/dev"), metavar="FOLDER")
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        SECTIONS[name](options.data)


if __name__ == "__main__":
    main()

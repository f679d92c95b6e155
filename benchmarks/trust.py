"""What a verdict says of reconstructions whose faults are known.

    python benchmarks/trust.py faults --data FOLDER     # twelve faults, one at a time: is each found, and named?
    python benchmarks/trust.py sigma                    # error bars against the scatter of fresh measurements
    python benchmarks/trust.py frc                      # resolution of halves against the truth
    python benchmarks/trust.py free                     # free pixels choose a weight, and reject slices
    python benchmarks/trust.py positions                # whether a trial notices errors of the positions
    python benchmarks/trust.py cost                     # time of each against a run

FOLDER holds mos2_inf.h5 and mos2_posnoise_inf.h5 (MoS2, noise free; the second with errors of the positions)
and sto_thick_1e7.h5 (156 Å of SrTiO3), with their truth. Counts are drawn with fixed seeds. "corr"
is the correlation of the phase with the truth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from trust_data import SIDE, Experiment
from trust_refits import cost, frc, free, positions, sigma

import pypty
from pypty.results.result import Result
from pypty.trust.quality import REGIONS, FitQuality

SEED, FAULT_SEED = 11, 3
STO_SIDE = 10
CHANGED = 0.005
"""Change of the correlation with the truth above which a verdict must not be good."""


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
        "probe of the right run, rotation 2°": GEOMETRY,
        "probe of the right run, transposed scan": ("geometry", "wrong model"),
        "probe of the right run, positions 0.1 Å": ("positions",),
        "probe of the right run, positions 0.3 Å": ("positions",),
        "pixel +2 %": GEOMETRY,
        "step +2 %": GEOMETRY,
        "gain 2": ("gain",),
        "detector blur 0.6 px": ("detector blur",),
        "source size 0.28 Å": ("coherence",),
        "dead pixels": ("pixels",),
        "one slice, thick crystal": ("wrong model", "thickness", "dark field"),
    }
)
"""The kinds that name each fault rightly, unless the right run says the same."""
RIGHT, NOMINAL, FIXED = "right", "right, probe fixed", "probe of the right run, "


WITH_FIXED_PROBE = (RIGHT, "rotation 2°", "transposed scan", "positions 0.1 Å", "positions 0.3 Å")
"""Runs that are made again with the probe of the right run, which is fixed."""


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
    turned = (places - centre) @ rotation.T + centre
    transposed = places.reshape(SIDE, SIDE, 2).transpose(1, 0, 2).reshape(-1, 2)
    on_raster = mos2.patterns.reshape(SIDE, SIDE, *mos2.patterns.shape[1:])
    weights = ((0, 0, 0.6), (0, 1, 0.1), (1, 0, 0.1), (0, -1, 0.1), (-1, 0, 0.1))
    source = sum(weight * np.roll(on_raster, (y, x), (0, 1)) for y, x, weight in weights)
    dead = counts.copy()
    dead[:, rng.random(dead.shape[1:]) < 0.005] = 0
    far_off, off = jitter(0.3), jitter(0.1)
    blurred = gaussian_filter(mos2.patterns, (0, 0.6, 0.6))
    return {
        RIGHT: mos2.params(counts),
        "right, padded": mos2.params(counts, data_pad=16, damping_cutoff_multislice=2 / 3),
        NOMINAL: mos2.params(counts, **mos2.fixed_probe()),
        "rotation 2°": mos2.params(counts, turned),
        "transposed scan": mos2.params(counts, transposed),
        "fixed probe, defocus +20 Å": mos2.params(counts, **mos2.fixed_probe(20)),
        "fixed probe, defocus +50 Å": mos2.params(counts, **mos2.fixed_probe(50)),
        "fixed probe, aperture -4 %": mos2.params(counts, **mos2.fixed_probe(0, 0.96)),
        "positions 0.3 Å": mos2.params(counts, far_off),
        "positions 0.1 Å": mos2.params(counts, off),
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


def first_kind(result: Result) -> str:
    """What a verdict says first."""
    return result.verdict.signatures[0].kind if result.verdict.signatures else "-"


def row(
    name: str,
    result: Result,
    correlation: float,
    *,
    right: float,
    of_right: Mapping[str, str],
    seconds: float,
) -> str:
    """One line of the table.

    Parameters
    ----------
    right : the correlation of the right run
    of_right : what the verdicts on the right runs say first, with the probe refined and fixed
    """
    verdict, fit, first = result.verdict, result.fit_quality(), first_kind(result)
    named = ""
    if name in _RIGHT:
        reference = FIXED + RIGHT if name.startswith(FIXED) else NOMINAL if "fixed probe" in name else RIGHT
        same = first == of_right.get(reference)
        named = "as the right run" if same else "yes" if first in _RIGHT[name] else "NO"
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
    of_right: dict[str, str] = {}
    results: dict[str, Result] = {}
    runs = mos2_runs(mos2)
    names = [*runs, *(FIXED + name for name in WITH_FIXED_PROBE), "one slice, thick crystal"]
    for name in names:
        if name.startswith(FIXED):
            known = {"probe": results[RIGHT].probe, "update_probe": False, "extra_probe_defocus": 0.0}
            params = {**runs[name.removeprefix(FIXED)], **known}
        else:
            params = runs[name] if name in runs else one_slice(sto)
        started = time.perf_counter()
        result = pypty.run(params)
        seconds = time.perf_counter() - started
        thick = name == "one slice, thick crystal"
        correlation = (sto if thick else mos2).correlation(result)
        if name == RIGHT:
            right, results[name] = correlation, result
        if name in (RIGHT, NOMINAL, FIXED + RIGHT):
            of_right[name] = first_kind(result)
        line = row(
            name,
            result,
            correlation,
            right=np.nan if thick else right,
            of_right={} if thick else of_right,
            seconds=seconds,
        )
        named += "| yes |" in line
        changed = thick or abs(correlation - right) > CHANGED
        hidden += [name] if changed and result.verdict.level == "good" else []
        print(line, flush=True)
    print(
        f"\nfirst signature of the right kind: {named} of {len(_RIGHT)}; good although changed: {hidden or 'none'}"
    )
    _model_and_noise(mos2, results[RIGHT])


def _model_and_noise(mos2: Experiment, result: Result) -> None:
    """Counts drawn from the model itself: every number is that of noise."""
    start = {**mos2.params(mos2.patterns), **result.params()}
    model = pypty.simulate(start)
    fit: FitQuality = pypty.fit_quality({**start, "dataset": np.random.default_rng(SEED).poisson(model)})
    print(
        f"model + Poisson noise: ratio {fit.ratio:.4f} ± {fit.ratio_error:.4f}, pix {fit.pix:+.4f} ± "
        f"{fit.pix_error:.4f}, scan {fit.scan:+.4f} ± {fit.scan_error:.4f}"
    )


SECTIONS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {"faults": faults, "sigma": sigma, "frc": frc, "free": free, "positions": positions, "cost": cost}
)


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

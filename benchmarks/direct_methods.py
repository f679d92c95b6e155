"""Direct methods beside PyPty's way of computing them, on the same data, in turns, as medians and ratios.

    python benchmarks/direct_methods.py
    python benchmarks/direct_methods.py --data FILE.h5 --turns 5 --json direct.json

"PyPty's way" is written anew here from a description of what PyPty 2.2 computes: for tilt-corrected bright field a
transform of the whole upsampled grid for each detector pixel, in batches of 100, and for the alignment a cubic
griddata of each cross-correlation; for DPC a loop over patterns. Patterns are in memory for both. Data: an HDF5 file
with `data` (N, ky, kx) and the attributes of the demo's file, which is the default. Wigner deconvolution is in
direct_wdd.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import direct_wdd
import h5py
import numpy as np
import scipy.interpolate
import scipy.optimize

from pypty.demo import demo_data
from pypty.direct_methods.numerics.bright_field import binned_detectors, collect, image_shifts_A
from pypty.dpc import fft_based_dpc
from pypty.experiment import Experiment
from pypty.tcbf import run_tcbf_alignment, upsampled_tcbf

Pair = tuple[Callable[[], Any], Callable[[], Any]]
BATCH = 100


def read_params(path: Path) -> dict[str, Any]:
    """Parameters of a data file, patterns in memory."""
    with h5py.File(path, "r") as file:
        a = file.attrs
        return {
            "dataset": file["data"][()].astype(np.float32),
            "acc_voltage": float(a["voltage_kV"]),
            "scan_size": [int(n) for n in a["scan_shape"]],
            "scan_step_A": float(a["scan_step_A"]),
            "rez_pixel_size_A": 1 / float(a["window_A"]),
            "conv_semiangle_mrad": float(a["semiangle_mrad"]),
            "aberrations": [float(a["C10_A"])],
        }


def dpc_pypty(params: dict[str, Any], hpass: float = 1e-6) -> np.ndarray:
    """Centres of mass in a loop over patterns, then one Fourier quotient."""
    data = params["dataset"]
    y = np.arange(data.shape[1]) - (data.shape[1] - 1) / 2
    x = np.arange(data.shape[2]) - (data.shape[2] - 1) / 2
    xx, yy = np.meshgrid(x, y)
    com = np.empty((2, len(data)))
    for number, pattern in enumerate(data):
        com[:, number] = (pattern * yy).sum(), (pattern * xx).sum()
    cy, cx = (com - com.mean(axis=1, keepdims=True)).reshape(2, *params["scan_size"])
    ky, kx = np.fft.fftfreq(cy.shape[0])[:, None], np.fft.fftfreq(cy.shape[1])[None]
    spectrum = (ky * np.fft.fft2(cy) + kx * np.fft.fft2(cx)) / (2j * np.pi * (hpass + ky**2 + kx**2))
    return np.fft.ifft2(spectrum).real


def upsampled_pypty(experiment: Experiment, data: np.ndarray, upsample: int, pad: int) -> np.ndarray:
    """Each image on the fine grid, transformed there and multiplied by its ramp; the sampling points likewise."""
    sy, sx = experiment.scan_size
    shape = ((sy + 2 * pad) * upsample, (sx + 2 * pad) * upsample)
    rows = slice(pad * upsample, (pad + sy) * upsample, upsample)
    columns = slice(pad * upsample, (pad + sx) * upsample, upsample)
    aperture = experiment.aperture
    k = binned_detectors(aperture, experiment.pixel_1A).k_1A
    shifts = image_shifts_A(experiment.aberrations_A, k, experiment.wavelength, 0.0) / (
        experiment.step_A / upsample
    )
    images = data.reshape(sy, sx, -1)[:, :, aperture.ravel()].transpose(2, 0, 1)
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
    points = np.zeros(shape)
    points[rows, columns] = 1
    points = np.fft.fft2(points)
    total, weight = np.zeros(shape, complex), np.zeros(shape, complex)
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        fine = np.zeros((len(images[part]), *shape))
        fine[:, rows, columns] = images[part]
        ramp = np.exp(-2j * np.pi * (fy * shifts[part, 0, None, None] + fx * shifts[part, 1, None, None]))
        total += (np.fft.fft2(fine) * ramp).sum(axis=0)
        weight += points * ramp.sum(axis=0)
    total, weight = np.fft.ifft2(total), np.fft.ifft2(weight)
    return (weight.conj() * total / (1e-3 + np.abs(weight) ** 2)).real


def align_pypty(
    experiment: Experiment,
    data: np.ndarray,
    binnings: tuple[int, ...],
    n_terms: int,
    box: int = 10,
    upsample: int = 3,
) -> np.ndarray:
    """Rounds of: shifted sum, cross-correlation of each image with it, its peak by cubic griddata, least squares."""
    sy, sx = experiment.scan_size
    step, wavelength = experiment.step_A, experiment.wavelength
    found = np.zeros(n_terms)
    found[0] = 0.9 * experiment.aberrations_A[0]
    offsets = np.arange(-box, box + 1)
    coarse = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 2)
    fine_axis = np.arange(-box * upsample, box * upsample + 1) / upsample
    fine = np.stack(np.meshgrid(fine_axis, fine_axis, indexing="ij"), axis=-1)
    pad = 1 + int(np.ceil(np.ceil(1 / experiment.pixel_1A[0] / step) / 2))
    for binning in binnings:
        detectors = binned_detectors(experiment.aperture, experiment.pixel_1A, binning)
        images = collect([(np.arange(len(data)), data)], detectors, (sy, sx)).images.astype(float)
        images -= images.mean(axis=(1, 2), keepdims=True)
        spectra = np.fft.fft2(np.pad(images, ((0, 0), (pad, pad), (pad, pad))))
        shape = spectra.shape[1:]
        fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]

        def model(c: np.ndarray, k: np.ndarray = detectors.k_1A) -> np.ndarray:
            return image_shifts_A(c, k, wavelength, 0.0) / step

        s = model(found)
        total = (spectra * np.exp(-2j * np.pi * (fy * s[:, 0, None, None] + fx * s[:, 1, None, None]))).sum(
            axis=0
        )
        measured = np.empty_like(s)
        for number, spectrum in enumerate(spectra):
            product = total * spectrum.conj()
            surface = np.fft.fftshift(np.fft.ifft2(product / (np.abs(product) + 1e-30)).real)
            near = np.round(s[number]).astype(int) + np.array(shape) // 2
            window = surface[(near[0] + coarse[:, 0]) % shape[0], (near[1] + coarse[:, 1]) % shape[1]]
            refined = scipy.interpolate.griddata(coarse, window, fine, method="cubic")
            best = np.unravel_index(np.nanargmax(refined), refined.shape)
            measured[number] = np.round(s[number]) + fine[best]
        loss = lambda c, model=model, measured=measured: (model(c) - measured).ravel()  # noqa: E731
        found = scipy.optimize.least_squares(loss, found).x
    return found


def pairs(params: dict[str, Any]) -> dict[str, Pair]:
    """By name: ours, and PyPty's way."""
    experiment = Experiment.from_params(params)
    data = params["dataset"]
    unknown = {**params, "aberrations": [0.0]}
    near = [0.9 * params["aberrations"][0], 0.0, 0.0]

    def shifts(binnings: tuple[int, ...]) -> Any:
        return run_tcbf_alignment(
            params,
            binnings,
            method="shifts",
            aberrations=near,
            n_aberrations_to_fit=3,
            optimize_angle=False,
            save=False,
        )["aberrations"]

    def weak_phase() -> Any:
        return run_tcbf_alignment(unknown, n_aberrations_to_fit=3, optimize_angle=False, save=False)[
            "aberrations"
        ]

    def theirs(*binnings: int) -> Callable[[], Any]:
        return lambda: align_pypty(experiment, data, binnings, 3)

    return {
        "DPC": (lambda: fft_based_dpc(params, hpass=1e-6)[0], lambda: dpc_pypty(params)),
        "tcBF, upsampled 5": (
            lambda: upsampled_tcbf(params, 5, 10)[0],
            lambda: upsampled_pypty(experiment, data, 5, 10),
        ),
        "tcBF alignment by shifts, bins 8": (lambda: shifts((8,)), theirs(8)),
        "tcBF alignment by shifts, bins 4, 2": (lambda: shifts((4, 2)), theirs(4, 2)),
        "tcBF alignment, weak phase, no start (theirs: bins 4, 2, 1)": (weak_phase, theirs(4, 2, 1)),
    }


def measure(cases: dict[str, Pair], turns: int) -> dict[str, dict[str, float]]:
    """Median seconds of both and their ratio; in every turn each runs once, after one run that is not counted."""
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
    for turn in range(turns + 1):
        for name, pair in cases.items():
            for which, work in enumerate(pair):
                start = time.perf_counter()
                work()
                if turn:
                    seconds[name][which].append(time.perf_counter() - start)
    table = {}
    for name, (ours, theirs) in seconds.items():
        a, b = statistics.median(ours), statistics.median(theirs)
        table[name] = {"ours_s": a, "pypty_s": b, "ratio": b / a}
    return table


def wdd_row(params: dict[str, Any], turns: int) -> dict[str, float]:
    """Wigner deconvolution, measured by direct_wdd.py."""
    pixel = 1 / (params["rez_pixel_size_A"] * params["dataset"].shape[-1])
    wanted = {
        key: value for key, value in params.items() if key not in ("aberrations", "conv_semiangle_mrad")
    }
    found = direct_wdd.compare(
        {
            **wanted,
            "pixel_size_x_A": pixel,
            "pixel_size_y_A": pixel,
            "extra_probe_defocus": params["aberrations"][0],
        },
        turns,
    )
    return {"ours_s": found["single / s"], "pypty_s": found["by_loops / s"], "ratio": found["ratio single"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=demo_data())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--json", type=Path, default=None)
    chosen = parser.parse_args()
    params = read_params(chosen.data)
    cases = pairs(params)
    cases = {name: pair for name, pair in cases.items() if chosen.only in name}
    table = measure(cases, chosen.turns)
    if chosen.only in "WDD":
        table["WDD"] = wdd_row(params, chosen.turns)
    for name, row in table.items():
        print(f"{name:62s} {row['ours_s']:9.4f} s {row['pypty_s']:9.4f} s  x{row['ratio']:.1f}")
    for name in (name for name in cases if "alignment" in name):
        print(f"{name}: C10 {cases[name][0]()[0]:.1f} Å, PyPty's way {cases[name][1]()[0]:.1f} Å")
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()

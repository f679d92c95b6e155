"""Sections of benchmarks/trust.py: error bars, resolution and free pixels against what many measurements give."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from trust_data import SIDE, Experiment

import pypty
from pypty.optics.probes import resize
from pypty.refits.compare import compare
from pypty.refits.gauge import difference, phases, without_affine, without_ramp
from pypty.refits.positions import position_trial
from pypty.refits.resolution import resolution, ring_correlation
from pypty.refits.uncertainty import Uncertainty, uncertainty
from pypty.results.result import Result

DOSES = (1e5, 1e6)
DRAWS = 16
"""Fresh measurements whose scatter the error bars are compared with."""
EPOCHS = 25
LOWPASS_A = 0.2


def _drawn(experiment: Experiment, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(np.maximum(experiment.patterns, 0))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _timed(params: dict[str, Any]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = pypty.run(params)
    return result, time.perf_counter() - started


def on_the_truth(experiment: Experiment, result: Result, found: Uncertainty) -> np.ndarray:
    """(y, x) true phase at the pixels of the scanned area, without a ramp, registered to the result."""
    pixel = float(result.pixel_size_A[0])
    window = np.array(result.probe.shape[:2])
    origin = (experiment.positions_A - (result.positions + window // 2) * pixel).mean(axis=0)
    image = without_ramp(found.area.of(phases(result.obj)).sum(axis=2))
    first = np.array([found.area.rows.start, found.area.columns.start])
    # the finer pixels of padded patterns: zeros around the spectrum
    finer = experiment.pixel_A / pixel
    shape = [round(n * finer) for n in experiment.truth.shape]
    assert np.allclose(np.array(experiment.truth.shape) * finer, shape), (
        "pixels that do not fit into the truth"
    )
    spectrum = np.fft.ifftshift(
        resize(np.fft.fftshift(np.fft.fft2(experiment.truth)), (shape[0], shape[1])) * finer**2
    )
    frequencies = [np.fft.fftfreq(n) for n in shape]

    def truth(shift: np.ndarray) -> np.ndarray:
        # whole pixels, and a part of one by the phases of the spectrum, which keeps the highest frequencies
        start = first + (origin + shift) / pixel
        whole = np.floor(start).astype(int)
        ramps = [np.exp(2j * np.pi * f * part) for f, part in zip(frequencies, start - whole, strict=True)]
        moved = np.fft.ifft2(spectrum * ramps[0][:, None] * ramps[1]).real
        return without_ramp(moved[whole[0] : whole[0] + image.shape[0], whole[1] : whole[1] + image.shape[1]])

    steps = np.linspace(-0.3, 0.3, 13)
    shifts = [np.array([y, x]) for y in steps for x in steps]
    best = min(shifts, key=lambda shift: _rms(truth(shift) - image))
    for size in (0.02, 0.005, 0.001):
        near = [best + size * np.array([y, x]) for y in (-2, -1, 0, 1, 2) for x in (-2, -1, 0, 1, 2)]
        best = min(near, key=lambda shift: _rms(truth(shift) - image))
    return truth(best)


def sigma(folder: Path) -> None:
    """Error bars of the phase against the scatter of fresh measurements; those of positions against their errors."""
    print(
        "| dose e/Å² | σ / true σ | within 1 σ, 2 σ of the expectation | of the truth | preview / true σ | "
        "cost / run |\n|---|---|---|---|---|---|"
    )
    for dose in DOSES:
        mos2 = Experiment.read(folder / "mos2_inf.h5", SIDE, dose)
        base, run_s = _timed(mos2.params(_drawn(mos2, 100), epoch_max=EPOCHS))
        found = uncertainty(base, lowpass_A=LOWPASS_A)
        lowpass_px = LOWPASS_A / float(base.pixel_size_A[0])
        others = np.array(
            [
                difference(
                    pypty.run(mos2.params(_drawn(mos2, 200 + k), epoch_max=EPOCHS)).obj,
                    base.obj,
                    area=found.area,
                    lowpass_px=lowpass_px,
                ).sum(axis=2)
                for k in range(DRAWS)
            ]
        )
        bar = found.total_phase_rad
        true = others.std(axis=0, ddof=1)
        about = np.abs(others.mean(axis=0))
        image = without_ramp(found.area.of(phases(base.obj)).sum(axis=2))
        total = np.abs(without_ramp(gaussian_filter(image - on_the_truth(mos2, base, found), lowpass_px)))
        cells = [
            f"{dose:.0e}",
            f"{_rms(bar) / _rms(true):.2f}",
            f"{100 * (about < bar).mean():.0f} %, {100 * (about < 2 * bar).mean():.0f} %",
            f"{100 * (total < bar).mean():.0f} %, {100 * (total < 2 * bar).mean():.0f} %",
            f"{_rms(uncertainty(base, repeats=0, lowpass_A=LOWPASS_A).total_phase_rad) / _rms(true):.2f}",
            f"{found.seconds / run_s:.1f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    _positions(folder)


def _positions(folder: Path) -> None:
    for dose in DOSES:
        noisy = Experiment.read(folder / "mos2_posnoise_inf.h5", SIDE, dose)
        params = noisy.params(
            _drawn(noisy, 401), noisy.ideal_A, epoch_max=40, update_probe_pos="lambda x: x >= 4"
        )
        result = pypty.run(params)
        # the start and the truth are in the same coordinates: only moves count
        moves = (result.positions - result.start_positions) * result.pixel_size_A
        error = without_affine(moves - (noisy.positions_A - noisy.ideal_A), noisy.positions_A)
        found = uncertainty(result, epochs=8)
        assert found.positions_A is not None
        inside = np.abs(error) < found.position_A
        print(
            f"positions, {dose:.0e} e/Å²: σ {found.position_A:.4f} Å, actual {_rms(error):.4f} Å, ratio "
            f"{found.position_A / _rms(error):.2f}; within σ {100 * inside.mean():.0f} %",
            flush=True,
        )


def frc(folder: Path) -> None:
    """C_ref of the halves against the correlation with the truth, ring by ring."""
    for dose in (*DOSES, 1e4):
        mos2 = Experiment.read(folder / "mos2_inf.h5", 28, dose)
        # padded: without, the highest frequencies alias, an error that both halves share
        params = mos2.params(
            _drawn(mos2, 500), epoch_max=EPOCHS, data_pad=16, damping_cutoff_multislice=2 / 3
        )
        result, run_s = _timed(params)
        found = resolution(params)
        # the image of all counts against the truth, in the same area
        area = uncertainty(result, repeats=0)
        truth = on_the_truth(mos2, result, area)
        image = without_ramp(area.area.of(phases(result.obj)).sum(axis=2))
        wanted = ring_correlation(image, truth, result.pixel_size_A, found.total.limit_1A)
        rings = np.flatnonzero((found.total.c_ref > 0.8) & (np.arange(len(wanted.frc)) > 1))
        off = np.abs(found.total.c_ref - wanted.frc)[rings]
        print(
            f"{dose:.0e} e/Å²: {found.total.text}; C_ref - correlation with the truth where C_ref > 0.8: at most "
            f"{off.max():.3f}, mean {off.mean():.3f} ({len(rings)} rings to {wanted.frequency_1A[rings].max():.2f}/Å); "
            f"cost {found.seconds / run_s:.1f} runs",
            flush=True,
        )
        for name, values in (("q", wanted.frequency_1A), ("C_ref", found.total.c_ref), ("truth", wanted.frc)):
            print(f"    {name:6}" + " ".join(f"{value:.2f}" for value in values[1::2]))


def free(folder: Path) -> None:
    """Weights of a regulariser and numbers of slices, chosen by free pixels and by the truth."""
    mos2 = Experiment.read(folder / "mos2_inf.h5", SIDE, 1e5)
    data = _drawn(mos2, 300)
    runs = {f"atv_weight {weight}": {"atv_weight": weight} for weight in (0.0, 10.0, 100.0)}
    runs |= {f"{n} slices": {"num_slices": n, "slice_distances": [d]} for n, d in ((3, 1.5), (6, 2.4))}
    results = {
        name: pypty.run(mos2.params(data, epoch_max=20, free_pixels=0.05, **changes))
        for name, changes in runs.items()
    }
    ranked = compare(results)
    print("| run | free deviance | difference to the best | correlation with the truth |\n|---|---|---|---|")
    for name, mean, change, error in zip(
        ranked.names, ranked.means, ranked.differences, ranked.errors, strict=True
    ):
        print(
            f"| {name} | {mean:.5f} | {change:+.5f} ± {error:.5f} | {mos2.correlation(results[name]):.4f} |",
            flush=True,
        )
    print(ranked.text.splitlines()[-1])


def positions(folder: Path) -> None:
    """The trial that says whether positions should be refined, with errors of known size."""
    mos2 = Experiment.read(folder / "mos2_inf.h5", SIDE, 1e6)
    data, rng = _drawn(mos2, 11), np.random.default_rng(3)
    for error_A in (0.0, 0.02, 0.05, 0.1, 0.3):
        places = mos2.positions_A + rng.normal(0, error_A / np.sqrt(2), mos2.positions_A.shape)
        result, run_s = _timed(mos2.params(data, places))
        started = time.perf_counter()
        print(
            f"errors of {error_A} Å: {position_trial(result)}; cost {(time.perf_counter() - started) / run_s:.1f} runs",
            flush=True,
        )


def cost(folder: Path) -> None:
    """Time of each part against a run: medians of interleaved runs."""
    mos2 = Experiment.read(folder / "mos2_inf.h5", 28, 1e6)
    params = mos2.params(_drawn(mos2, 1), epoch_max=EPOCHS)
    kinds: dict[str, dict[str, Any]] = {
        "run without a verdict": {"verdict": "none"},
        "run": {},
        "with free pixels": {"free_pixels": 0.05},
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(7):
        for name, changes in kinds.items():
            times[name].append(_timed({**params, **changes})[1])
    base = float(np.median(times["run without a verdict"]))
    for name, seconds in times.items():
        print(f"{name}: {np.median(seconds):.2f} s, {100 * (np.median(seconds) / base - 1):+.1f} %")

"""Wigner deconvolution: time of ``pypty.direct.wdd`` beside that of PyPty's algorithm, on the same data.

    python benchmarks/direct_wdd.py                       # the MoS2 data that come with the package
    python benchmarks/direct_wdd.py --scan 64 64 --window 128

PyPty 2.2 itself is not on the package index. :func:`wdd_by_loops` is its algorithm, written anew from a description of
what it computes: complex64, one object frequency after the other in two nested loops, all of the transformed data
in memory. Both get an array in memory and give the same spectrum (printed: the relative difference).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from pypty.demo import demo_data
from pypty.direct import wdd
from pypty.optics.aberrations import aberration_phase
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A


def mos2() -> dict[str, Any]:
    """Parameters of the data that come with the package: 32 x 32 patterns of 64 x 64 pixels."""
    with h5py.File(demo_data(), "r") as file:
        return {
            "dataset": file["data"][()].astype(np.float32),
            "acc_voltage": float(file.attrs["voltage_kV"]),
            "scan_size": tuple(int(n) for n in file.attrs["scan_shape"]),
            "scan_step_A": float(file.attrs["scan_step_A"]),
            "rez_pixel_size_A": 1 / float(file.attrs["window_A"]),
            "pixel_size_x_A": float(file.attrs["pixel_size_A"]),
            "pixel_size_y_A": float(file.attrs["pixel_size_A"]),
            "extra_probe_defocus": float(file.attrs["C10_A"]),
        }


def random_scan(scan_size: tuple[int, int], window: int) -> dict[str, Any]:
    """A noisy disk in every pattern: the time does not depend on what is seen."""
    rng = np.random.default_rng(0)
    k = np.arange(window) - window // 2
    disk = 20.0 * (np.hypot(k[:, None], k) < window / 6) + 0.1
    return {
        "dataset": rng.poisson(disk, (scan_size[0] * scan_size[1], window, window)).astype(np.float32),
        "acc_voltage": 80.0,
        "scan_size": scan_size,
        "scan_step_A": 0.45,
        "rez_pixel_size_A": 0.05,
        "pixel_size_x_A": 1 / (0.05 * window),
        "pixel_size_y_A": 1 / (0.05 * window),
        "extra_probe_defocus": 100.0,
    }


def _edge(rho: np.ndarray) -> np.ndarray:
    taper = np.ones_like(rho)
    n_right, n_left = (rho > 0.6 * rho.max()).sum(), (-rho > 0.6 * rho.max()).sum()
    taper[-n_right:] = 0.5 * (1 + np.cos(np.pi * np.arange(n_right) / (n_right - 1)))
    taper[:n_left] = 0.5 * (1 + np.cos(np.pi * np.arange(n_left)[::-1] / (n_left - 1)))
    return taper


def wdd_by_loops(params: dict[str, Any], eps_wiener: float) -> np.ndarray:
    """(slow, fast) complex64: PyPty's algorithm, for patterns without rotation or padding."""
    slow, fast = params["scan_size"]
    n = params["dataset"].shape[-1]
    data = params["dataset"].reshape(slow, fast, n, n)
    dk, step = params["rez_pixel_size_A"], params["scan_step_A"]
    grid = Grid((n, n), (1 / (n * dk),) * 2, wavelength_A(params["acc_voltage"]))
    chi = np.fft.fftshift(aberration_phase(grid, np.array([params["extra_probe_defocus"]])))
    spectrum = (np.sqrt(data.mean(axis=(0, 1), dtype=float)) * np.exp(-1j * chi)).astype(np.complex64)
    probe = np.fft.ifft2(np.fft.ifftshift(spectrum))
    rho = np.fft.fftshift(np.fft.fftfreq(n))
    taper = _edge(rho)
    rho_x, rho_y = np.meshgrid((rho * taper).astype(np.float32), (rho * taper).astype(np.float32))
    centred = (np.fft.fftshift(probe) * taper[:, None] * taper[None, :]).astype(np.complex64)
    conjugate = np.conj(np.fft.fftshift(np.fft.fft2(np.fft.fftshift(probe))))
    transformed = np.fft.fftshift(np.fft.fft2(data.astype(np.complex64), axes=(0, 1)), axes=(0, 1))
    q_y, q_x = (np.fft.fftshift(np.fft.fftfreq(m, step)) / dk for m in (slow, fast))
    out = np.zeros((slow, fast), np.complex64)
    for i in range(slow):
        for j in range(fast):
            h = np.fft.ifft2(np.fft.ifftshift(transformed[i, j]))
            ramp = np.exp(
                np.complex64(2j * np.pi) * (rho_x * np.float32(q_x[j]) + rho_y * np.float32(q_y[i]))
            )
            moved = np.fft.fftshift(np.fft.fft2(centred * ramp))
            down, right = int(np.round(q_y[i])), int(np.round(q_x[j]))
            moved[(slice(0, down) if down >= 0 else slice(down, None))] = 0
            moved[:, (slice(0, right) if right >= 0 else slice(right, None))] = 0
            w = np.fft.ifft2(np.fft.ifftshift(conjugate * moved))
            out[i, j] = np.sum(h * np.conj(w) / (eps_wiener + np.abs(w) ** 2))
    return np.fft.ifft2(np.fft.ifftshift(out / out[slow // 2, fast // 2])) * out.size


def compare(params: dict[str, Any], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each in one process, taking turns, and the ratios of the medians."""
    eps = 1e-3 * float(params["dataset"].mean()) ** 2  # absolute, of the size of |W|^2: the same for both
    ways: dict[str, Callable[[], np.ndarray]] = {
        "by_loops": lambda: wdd_by_loops(params, eps),
        "single": lambda: wdd(params, eps, absolute_eps=True),
        "double": lambda: wdd(params, eps, absolute_eps=True, precision="double"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    norm = np.linalg.norm(found["by_loops"])
    return {
        **{f"{name} / s": value for name, value in medians.items()},
        "ratio single": medians["by_loops"] / medians["single"],
        "ratio double": medians["by_loops"] / medians["double"],
        "difference": float(np.linalg.norm(found["single"] - found["by_loops"]) / norm),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", type=int, nargs=2, metavar=("SLOW", "FAST"), help="random patterns instead")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    params = random_scan(tuple(options.scan), options.window) if options.scan else mos2()
    for name, value in compare(params, options.repeats).items():
        print(f"{name:14} {value:.3g}")


if __name__ == "__main__":
    main()

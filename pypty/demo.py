"""The demo: MoS2 from 1024 simulated diffraction patterns, compared with the truth."""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.iterative import run, simulate
from pypty.params.presets import load_preset
from pypty.plots import plot_loss_history, plot_patterns, plot_phase, plot_positions, plot_probe, plot_result
from pypty.plots.figures import scanned_area
from pypty.quality import Agreement, phase_agreement
from pypty.results.result import Result

DATA = "mos2_demo.h5"
PRESET = "mos2_demo"


@dataclass(frozen=True)
class DemoReport:
    """Result of the demo."""

    result: Result
    agreement: Agreement
    seconds: float
    figures: list[Path]


def demo_data() -> Path:
    """The data set that comes with PyPty: simulated with abTEM, 1e6 electrons/Å^2, with the true phase."""
    return Path(str(importlib.resources.files("pypty.resources") / DATA))


def demo_params(output_folder: str | Path = "pypty_demo", **changes: Any) -> dict[str, Any]:
    """The demo's parameters: its preset, with geometry and positions read from the data file."""
    path = demo_data()
    with h5py.File(path, "r") as file:
        pixel = float(file.attrs["pixel_size_A"])
        positions = file["positions_A"][()]
        experiment = {
            "data_path": str(path),
            "acc_voltage": float(file.attrs["voltage_kV"]),
            "extra_probe_defocus": float(file.attrs["C10_A"]),
            "scan_size": file.attrs["scan_shape"].tolist(),
            "scan_step_A": float(file.attrs["scan_step_A"]),
        }
    params = {**load_preset(PRESET), **changes}
    n_pixels = 64
    pixel *= n_pixels / (n_pixels + 2 * params["data_pad"])  # padded patterns have finer pixels in real space
    return {
        **experiment,
        "pixel_size_x_A": pixel,
        "pixel_size_y_A": pixel,
        "positions": positions / pixel,
        "output_folder": str(output_folder),
        **params,
    }


def agreement_with_truth(result: Result, path: Path | None = None) -> Agreement:
    """Correlation of the reconstructed phase with the truth stored in a simulated data set."""
    with h5py.File(path or demo_data(), "r") as file:
        truth = file["truth/phase_total"][()].astype(float)
        true_positions = file["positions_true_A"][()]
        truth_pixel = float(file.attrs["pixel_size_A"])
    pixel = float(result.pixel_size_A[0])
    centres = (result.positions + np.array(result.probe.shape[:2]) // 2) * pixel
    origin = (true_positions - centres).mean(axis=0)
    area = np.stack([true_positions.min(axis=0), true_positions.max(axis=0)])
    return phase_agreement(
        result.phase, pixel, origin_A=origin, truth=truth, truth_pixel_A=truth_pixel, area_A=area
    )


def run_demo(
    output_folder: str | Path = "pypty_demo",
    reconstruct: Callable[[dict[str, Any]], Result] = run,
    **changes: Any,
) -> DemoReport:
    """Reconstruct, compare with the truth, write figures into ``output_folder``."""
    params = demo_params(output_folder, **changes)
    started = time.perf_counter()
    result = reconstruct(params)
    seconds = time.perf_counter() - started
    figures = _write_figures(result, params, Path(output_folder))
    return DemoReport(result, agreement_with_truth(result), seconds, figures)


def _write_figures(result: Result, params: dict[str, Any], folder: Path) -> list[Path]:
    area = scanned_area(result.obj.shape, result.positions, result.probe.shape[:2])
    middle = len(result.positions) // 2 + 16
    with h5py.File(params["data_path"], "r") as file:
        measured = Preprocess(
            flip_ky=params.get("flip_ky", False), bin=params.get("data_bin", 1), pad=params["data_pad"]
        ).patterns(file["data"][middle].astype(float))
    modelled = simulate(
        {
            **params,
            "data_path": "",
            "obj": result.obj,
            "probe": result.probe,
            "output_folder": "",
            "positions": result.positions[[middle]],
            "scan_size": None,
            "extra_probe_defocus": 0.0,
            "skip_preprocessing": True,
        }
    )[0]
    figures = {
        "object_phase": plot_phase(result.phase[area], result.pixel_size_A, title="MoS2, object phase"),
        "probe": plot_probe(result.probe, result.pixel_size_A),
        "loss": plot_loss_history(result.history),
        "positions": plot_positions(result.positions, result.start_positions, result.pixel_size_A),
        "patterns": plot_patterns(measured, modelled, (f"measured, position {middle}", "modelled")),
        "overview": plot_result(result),
    }
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path)
        paths.append(path)
    return paths

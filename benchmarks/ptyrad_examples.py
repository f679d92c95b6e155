"""PtyRAD's own example parameter sets, on simulated data of the same shape.

    python benchmarks/ptyrad_examples.py tBL_WSe2 --folder work --iterations 2
    python benchmarks/ptyrad_examples.py PSO --folder work --iterations 2 --scan 16

Simulates a scan (atom columns of Gaussian phase, Poisson noise), writes it in the format and with the flips that the
parameter file names, translates the file and runs it as ``pypty run`` does. Printed: the report of the translation,
seconds and loss of every iteration, and the correlation of the phase, summed over slices, with the truth.
--scan N takes a scan of N x N points instead of the whole one (128 x 128, 64 x 64).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.importers.command import load_parameters
from pypty.optics.aberrations import aberration_phase
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A
from pypty.quality import phase_agreement
from pypty.results.of_run import result_of

FILES = Path(__file__).parents[1] / "tests" / "data" / "ptyrad"


@dataclass(frozen=True)
class Example:
    """What the experiment was.

    Attributes
    ----------
    file : PtyRAD's parameters
    scan, step_A, rotation_deg : raster
    n, pixel_mrad : of the detector
    phase : rad at an atom column, over all slices
    lattice_A : between columns
    electrons : per pattern
    flip_ky : the detector's rows run the other way
    """

    file: str
    data: str
    kV: float
    mrad: float
    C10_A: float
    scan: int
    step_A: float
    rotation_deg: float
    n: int
    pixel_mrad: float
    slices: int
    thickness_A: float
    phase: float
    lattice_A: float
    electrons: float
    flip_ky: bool


_WSE2_PIXEL = 1e3 * wavelength_A(80) / (128 * 0.1494)
EXAMPLES = {
    "tBL_WSe2": Example("tBL_WSe2.yml", "scan_x128_y128.raw", 80, 24.9, 0.0, 128, 0.429, -3.0, 128, _WSE2_PIXEL, 6,
                        2.0, 0.6, 2.8, 1.4e5, True),
    "PSO": Example("PSO.toml", "patterns.npy", 300, 21.4, 200.0, 64, 0.41, 0.0, 256, 21.4 / 26, 21, 10.0, 2.5, 2.75,
                   2.0e5, False),
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    phase: np.ndarray
    pixel_A: float
    positions_A: np.ndarray


def simulate(example: Example, scan: int, seed: int = 0) -> tuple[np.ndarray, Truth]:
    """Counts (N, n, n) float32, zero frequency at n//2, and the truth."""
    rng, wavelength = np.random.default_rng(seed), wavelength_A(example.kV)
    pixel = 1e3 * wavelength / (example.n * example.pixel_mrad)
    grid = Grid((example.n, example.n), (pixel, pixel), wavelength)
    inside = np.hypot(grid.qy, grid.qx) * wavelength <= 1e-3 * example.mrad
    spectrum = inside * np.exp(-1j * aberration_phase(grid, np.array([example.C10_A])))
    probe = np.fft.fftshift(np.fft.ifft2(spectrum))
    probe *= np.sqrt(example.electrons / (abs(np.fft.fft2(probe)) ** 2).sum())
    angle = np.deg2rad(example.rotation_deg)
    raster = (
        np.stack(np.meshgrid(*[np.arange(scan)] * 2, indexing="ij"), axis=-1).reshape(-1, 2) * example.step_A
    )
    turned = raster @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    positions = (turned - turned.min(axis=0)) / pixel
    side = int(positions.max()) + example.n + 4
    phase = columns(side, example, pixel, rng)
    obj = np.exp(1j * phase / example.slices)[:, :, None, None].repeat(example.slices, axis=2)
    patterns = pypty.simulate(
        {
            "obj": obj, "probe": probe[..., None], "positions": positions, "slice_distances": [example.thickness_A],
            "acc_voltage": example.kV, "pixel_size_y_A": pixel, "pixel_size_x_A": pixel, "skip_preprocessing": True,
            "damping_cutoff_multislice": 1.0, "default_dtype": "single", "print_flag": 0,
        }
    )  # fmt: skip
    counts = rng.poisson(np.maximum(patterns, 0)).astype(np.float32)
    return counts, Truth(phase, pixel, (positions + example.n // 2) * pixel)


def columns(side: int, example: Example, pixel: float, rng: np.random.Generator) -> np.ndarray:
    """(side, side) rad: a square lattice of columns of different weight, some of them missing."""
    phase = np.zeros((side, side))
    sites = np.arange(0.5, side * pixel / example.lattice_A) * example.lattice_A / pixel
    weight = rng.uniform(0.6, 1.4, (len(sites), len(sites))) * (rng.random((len(sites), len(sites))) > 0.03)
    rows = np.round(sites).astype(int)
    keep = rows < side
    phase[np.ix_(rows[keep], rows[keep])] = weight[np.ix_(keep, keep)]
    phase = gaussian_filter(phase, 0.4 / pixel, mode="wrap")
    return example.phase * phase / phase.max()


def write(example: Example, counts: np.ndarray, folder: Path) -> Path:
    """The data file as the microscope leaves it: EMPAD frames have two rows more."""
    path = folder / example.data
    counts = counts[:, ::-1] if example.flip_ky else counts
    if path.suffix == ".raw":
        with open(path, "wb") as stream:
            for pattern in counts:
                stream.write(np.concatenate([pattern, np.zeros((2, example.n), np.float32)]).tobytes())
    else:
        np.save(path, counts)
    return path


def run(name: str, folder: Path, iterations: int, scan: int | None = None, **changes: Any) -> dict[str, Any]:
    """Simulate, translate, reconstruct; what there is to print."""
    example = EXAMPLES[name]
    n_scan = scan or example.scan
    counts, truth = simulate(example, n_scan)
    path = write(example, counts, folder)
    del counts
    own = {
        "init_params.meas_params.path": str(path), "recon_params.NITER": iterations, "recon_params.SAVE_ITERS": None,
        "init_params.pos_N_scan_slow": n_scan, "init_params.pos_N_scan_fast": n_scan,
    }  # fmt: skip
    if name == "PSO":
        own["init_params.meas_crop"] = [[0, n_scan], [0, n_scan], [68, 188], [68, 188]]
    params, report = load_parameters(str(FILES / example.file), own)
    setup = prepare({**params, "print_flag": 0, "output_folder": "", "default_dtype": "single", **changes})
    reconstruction = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    seconds, started = [], time.perf_counter()
    for _ in reconstruction.epochs():
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    result = result_of(reconstruction)
    setup.close()
    pixel = float(result.pixel_size_A[0])
    centres = (result.positions + np.array(result.probe.shape[:2]) // 2) * pixel
    area = np.stack([truth.positions_A.min(axis=0), truth.positions_A.max(axis=0)])
    origin = (truth.positions_A - centres).mean(axis=0)
    found = phase_agreement(
        result.phase,
        pixel,
        origin_A=origin,
        truth=truth.phase,
        truth_pixel_A=truth.pixel_A,
        area_A=area,
        search_A=1.2,
    )
    return {
        "report": report,
        "seconds": seconds,
        "loss": result.loss,
        "correlation": found.correlation,
        "result": result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(EXAMPLES))
    parser.add_argument("--folder", type=Path, required=True, help="for the simulated data (up to 1.1 GB)")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--scan", type=int)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = run(options.name, options.folder, options.iterations, options.scan)
    print(found["report"])
    for number, (seconds, loss) in enumerate(zip(found["seconds"], found["loss"], strict=False), 1):
        print(f"iteration {number}: loss {loss:.5f}, {seconds:.1f} s")
    print(f"correlation with the truth: {found['correlation']:.4f}")


if __name__ == "__main__":
    main()

"""Simulate a two-slice specimen, forget the positions and the slice distance, and find them again. Runs in a few s."""

import numpy as np
from scipy.ndimage import gaussian_filter

import pypty
from pypty.optics.grid import Grid
from pypty.optics.probes import aberrate, probe_from_spectrum
from pypty.optics.wavelength import wavelength_A

rng = np.random.default_rng(3)
n, pixel_A, voltage_kV, distance_A = 48, 0.2, 80.0, 60.0

# A random two-slice phase object, and a 25 mrad probe with 100 Å of defocus.
phase = gaussian_filter(rng.normal(size=(96, 96, 2, 1)), (2, 2, 0, 0)) * 4
grid = Grid((n, n), (pixel_A, pixel_A), wavelength_A(voltage_kV))
aperture = np.fft.fftshift(np.sqrt(grid.q2)) * grid.wavelength <= 25e-3
probe = aberrate(probe_from_spectrum(aperture * 60.0 + 0j)[None], grid, np.array([100.0])).transpose(1, 2, 0)
positions = np.stack(np.meshgrid(np.arange(0, 48, 3.0), np.arange(0, 48, 3.0), indexing="ij"), -1).reshape(
    -1, 2
)
true_positions = np.clip(positions + rng.normal(0, 0.4, positions.shape), 0, None)

truth = {
    "acc_voltage": voltage_kV, "pixel_size_x_A": pixel_A, "pixel_size_y_A": pixel_A, "obj": np.exp(1j * phase),
    "probe": probe, "positions": true_positions, "slice_distances": [distance_A], "skip_preprocessing": True,
}  # fmt: skip
patterns = pypty.simulate(truth)
print(f"simulated {patterns.shape} patterns with {patterns.sum() / len(patterns):.3g} counts each")

start = {**truth, "dataset": patterns, "positions": positions, "slice_distances": [0.75 * distance_A], "obj": None,
         "num_slices": 2, "update_probe": False, "update_probe_pos": "lambda x: x >= 10",
         "update_slice_distances": "lambda x: x >= 20", "epoch_max": 150}  # fmt: skip
result = pypty.run(start)


def rms(error: np.ndarray) -> float:
    """Root mean square distance in pixels, without the common shift (which the object can absorb)."""
    return float(np.sqrt(((error - error.mean(axis=0)) ** 2).sum(axis=1).mean()))


print(
    f"positions: {rms(positions - true_positions):.3f} px off before, "
    f"{rms(result.positions - true_positions):.3f} px after"
)
print(
    f"slice distance: {0.75 * distance_A:.1f} Å before, {result.slice_distances[0]:.1f} Å after, "
    f"{distance_A:.1f} Å in truth"
)

"""In-line holography: the phase of an exit wave from five defocused images at one position. Runs in a few seconds."""

import matplotlib
import numpy as np
from scipy.ndimage import gaussian_filter

import pypty

matplotlib.use("Agg")
import matplotlib.pyplot as plt

rng = np.random.default_rng(1)
n, pixel_A, voltage_kV = 96, 2.0, 300.0
defocus_A = np.array([-20e3, -8e3, 3e3, 12e3, 25e3])

# A random phase object inside a field that fades out (so that the periodic window has no edge), lit by a plane wave.
y, x = np.mgrid[:n, :n] / (n - 1) - 0.5
fade = np.clip(1.25 - np.hypot(y, x) / 0.36, 0, 1) ** 2
phase = 1.2 * gaussian_filter(rng.normal(size=(n, n)), 4) * 8 * fade
counts = 400.0

params = {
    "acc_voltage": voltage_kV, "pixel_size_x_A": pixel_A, "pixel_size_y_A": pixel_A, "recon_type": "near_field",
    "defocus_array": defocus_A, "positions": [[0.0, 0.0]], "skip_preprocessing": True, "alpha_near_field": 2e-5,
    "probe": np.full((n, n, 1), np.sqrt(counts), complex),
}  # fmt: skip
images = rng.poisson(pypty.simulate({**params, "obj": np.exp(1j * phase)[..., None, None]}))

result = pypty.run(
    {
        **params,
        "dataset": images,
        "update_probe": False,
        "phase_only_obj": True,
        "algorithm": "ml",
        "epoch_max": 60,
    }
)
found = result.phase - result.phase.mean()
correlation = np.corrcoef(found.ravel(), phase.ravel())[0, 1]
print(f"correlation of the phase with the truth: {correlation:.3f}")

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), constrained_layout=True)
field_nm = (0, n * pixel_A / 10, n * pixel_A / 10, 0)
for axis, image, title in (
    (axes[0], images[-1], f"image at {defocus_A[-1] / 1e4:.1f} µm / counts"),
    (axes[1], phase - phase.mean(), "true phase / rad"),
    (axes[2], found, "reconstructed phase / rad"),
):
    shown = axis.imshow(image, extent=field_nm, cmap="gray" if axis is axes[0] else "viridis")
    figure.colorbar(shown, ax=axis)
    axis.set(title=title, xlabel="x / nm", ylabel="y / nm")
figure.savefig("focal_series.png", dpi=120)

"""Misfit of a slab of slices, as a model of a thick specimen, for a rotation, a defocus and a thickness."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import to_host
from pypty.calibrate.measured import pixel_weights
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.errors import DataError
from pypty.experiment import Experiment
from pypty.optics.scan_grid import rotation_yx, scan_grid_A

_WINDOW = 4.5
"""Width of the model's window in radii of the disk: the band limit, two thirds of it, is 1.5 radii on each side."""
_SEEN = 1.5
"""Radius up to which patterns are compared, in radii of the disk."""
_WORK = 400 * 96**2
"""Total number of pixels of the fitted patterns; more hardly change the result."""
_FEWEST = 8  # patterns along each axis of the scan
_FLOOR = 1e-3  # amplitude below which no logarithm is taken
_BACKGROUND = 20
"""Percentile of the phase that is taken as the phase between atoms."""
_MOST_SLICES = 16  # of a slab, which limits the time of a trial
_PASSES = 4
"""Passes of mini-batches before L-BFGS."""


@dataclass(frozen=True)
class Trial:
    """A hypothesis about the specimen.

    Attributes
    ----------
    rotation_deg : PLRotation_deg
    middle_A : C10 of the beam at the middle of the slab
    thickness_A : of the slab
    """

    rotation_deg: float
    middle_A: float
    thickness_A: float


@dataclass(frozen=True)
class Fit:
    """Result of fitting a slab.

    Attributes
    ----------
    misfit : sum (sqrt(model) - sqrt(counts))^2, divided by the sum of the counts
    phase : (Y, X) rad, summed over the slices, in the illuminated area
    middle_A : C10 at the middle of the slab, after refinement if there was one
    """

    misfit: float
    phase: np.ndarray
    middle_A: float


@dataclass(frozen=True)
class Slab:
    """Patterns of the middle of a scan, prepared for fits of slabs.

    Attributes
    ----------
    params : parameters of the reconstruction, without those of a :class:`Trial`
    scan_A : (n, 2) [y, x] positions without rotation, Å
    pixel_A : of the model, (y, x)
    counts : sum of the compared counts
    depth_of_focus_A : wavelength / semi-angle^2
    """

    params: Mapping[str, Any]
    scan_A: np.ndarray
    pixel_A: tuple[float, float]
    counts: float
    depth_of_focus_A: float

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Slab:
        """Read the patterns of the middle of the scan; patterns are cut, or padded, to the model's window.

        Raises
        ------
        DataError
            The aperture is empty, or fewer than 8 x 8 patterns are left.
        """
        aperture = experiment.aperture
        radius = float(np.sqrt(aperture.sum() / np.pi))
        if radius < 1:
            raise DataError(
                f"the aperture has {int(aperture.sum())} pixels; check conv_semiangle_mrad and the pixel size"
            )
        n = 2 * round(_WINDOW * radius / 2)  # window of the model, even
        indices = _middle(experiment, max(_FEWEST, int(np.sqrt(_WORK) / n)))
        keep = tuple(_central(size, n) for size in experiment.pattern_shape)
        ky, kx = (f / p for f, p in zip(experiment.frequencies_1A, experiment.pixel_1A, strict=True))
        weights = pixel_weights(experiment) * (np.hypot(ky, kx) <= _SEEN * radius)
        weights, aperture = weights[keep], aperture[keep]
        data = experiment.patterns(indices)[:, keep[0], keep[1]]
        pads = {(n - size) // 2 for size in weights.shape}
        if len(pads) > 1:
            raise DataError(
                f"patterns of {experiment.pattern_shape} are narrower than the model on one axis only"
            )
        pad = max(pads)
        window = tuple(size + 2 * pad for size in weights.shape)
        # (y, x) Å: the reciprocal of the width of the padded pattern
        pixel = (1 / (window[0] * experiment.pixel_1A[0]), 1 / (window[1] * experiment.pixel_1A[1]))
        params = {
            "dataset": data,
            "detector_mask": weights,
            "data_pad": pad,
            "use_padded_intensity": False,
            "aperture_mask": np.pad(aperture.astype(float), pad),
            "probe": "aperture",
            "acc_voltage": experiment.settings["acc_voltage"],
            "pixel_size_y_A": pixel[0],
            "pixel_size_x_A": pixel[1],
            "default_dtype": "single",
            # amplitudes forgive a wrong start, and only losses are compared
            "algorithm": "lsq_sqrt",
            "verdict": "none",
            "update_probe": False,
            "backend": experiment.settings["backend"],
            "n_threads": experiment.settings["n_threads"],
            "print_flag": 0,
            **_tilts(experiment, indices),
        }
        # convergence semi-angle in rad
        angle = radius * float(np.mean(experiment.pixel_mrad)) * 1e-3
        counts = float((data * weights).sum(dtype=np.float64))
        scan = scan_grid_A(experiment.scan_size, experiment.step_A)[indices]
        return cls(params, scan, pixel, counts, experiment.wavelength / angle**2)

    def slices(self, thickness_A: float) -> int:
        """Number of slices: about one for each depth of focus, at least two."""
        return int(np.clip(round(thickness_A / self.depth_of_focus_A), 2, _MOST_SLICES))

    def fit(self, trial: Trial, passes: int) -> Fit:
        """Fit by passes of mini-batches from vacuum, with equal slices and without atoms that repel the beam.

        Free slices could compensate a wrong defocus or thickness. With repelling atoms, half a turn together with the
        opposite sign of defocus would fit equally well.
        """
        run = self._reconstruction(trial, passes, passes)
        with closing(run.setup):
            for _ in run.epochs():
                obj = _alike(to_host(run.state.variables.obj))
                changed = run.setup.backend.asarray(obj, run.setup.backend.complex)
                run.state.change(run.state.variables.replace({"obj": changed}), ["slices made alike"])
            return self._read(run, trial.middle_A)

    def refine(self, trial: Trial, epochs: int) -> Fit:
        """Passes of mini-batches, then epochs of L-BFGS that refine free slices and C10 together."""
        n = len(self.scan_A)
        local = {
            "aberration_marker": np.zeros(n, int),
            "aberrations_array": np.zeros((1, 1)),
            "update_aberrations_array": True,
        }
        run = self._reconstruction(trial, _PASSES, _PASSES + epochs, local)
        with closing(run.setup):
            for _ in run.epochs():
                pass
            change = float(to_host(run.state.variables.aberrations_array).ravel()[0])
            return self._read(run, trial.middle_A + change)

    def _reconstruction(
        self, trial: Trial, passes: int, epochs: int, more: Mapping[str, Any] | None = None
    ) -> Reconstruction:
        positions = self.scan_A @ rotation_yx(trial.rotation_deg).T
        n = self.slices(trial.thickness_A)
        gap = trial.thickness_A / n
        setup = prepare(
            {
                **self.params,
                "positions": (positions - positions.min(axis=0)) / self.pixel_A,
                # A slice represents a layer and lies in the middle of that layer.
                "extra_probe_defocus": trial.middle_A - 0.5 * (n - 1) * gap,
                "num_slices": n,
                "slice_distances": [gap],
                "warmup_epochs": passes,
                "epoch_max": epochs,
                **(more or {}),
            }
        )
        return Reconstruction(setup, State(variables=setup.variables(), epoch=0))

    def _read(self, run: Reconstruction, middle_A: float) -> Fit:
        obj = to_host(run.state.variables.obj)
        n = np.array(run.setup.grid.shape)
        phase = np.angle(obj).reshape(-1, *obj.shape[-2:]).sum(axis=0)  # (mode, z, Y, X) -> (Y, X)
        # Without half a window on each side: the area under the centres of the probe.
        inner = phase[n[0] // 2 : phase.shape[0] - n[0] // 2, n[1] // 2 : phase.shape[1] - n[1] // 2]
        loss = run.state.records[-1].loss if run.state.sample is None else run.state.sample.value
        return Fit(float(loss) / self.counts, inner if min(inner.shape) > 1 else phase, middle_A)


def _alike(obj: np.ndarray) -> np.ndarray:
    """(..., z, y, x) transmission in which every slice has the mean absorption and phase of all slices, and no phase is
    below the background.
    """
    absorbed = np.log(np.maximum(np.abs(obj), _FLOOR)).mean(axis=-3, keepdims=True)
    phase = np.angle(obj).mean(axis=-3, keepdims=True)
    phase = np.maximum(phase, np.percentile(phase, _BACKGROUND, axis=(-2, -1), keepdims=True))
    return np.broadcast_to(np.exp(absorbed + 1j * phase), obj.shape)


def _middle(experiment: Experiment, side: int) -> np.ndarray:
    """Scan points, at most side x side around the middle of the scan, of which there are patterns in ``sequence``."""
    ranges = [
        np.arange(max(0, (n - side) // 2), max(0, (n - side) // 2) + min(n, side))
        for n in experiment.scan_size
    ]
    indices = (ranges[0][:, None] * experiment.scan_size[1] + ranges[1][None, :]).ravel()
    indices = indices[~experiment.left_out[indices]]
    if len(indices) < _FEWEST**2:
        raise DataError(
            f"{len(indices)} patterns in the middle of the scan; a slab needs {_FEWEST} x {_FEWEST} or more"
        )
    return indices


def _central(size: int, wanted: int) -> slice:
    """The middle of an axis, such that index n//2 becomes the new n//2."""
    if size <= wanted:
        return slice(0, size)
    start = size // 2 - wanted // 2
    return slice(start, start + wanted)


def _tilts(experiment: Experiment, indices: np.ndarray) -> dict[str, Any]:
    tilts = experiment.settings["tilts"]
    if tilts is None:
        return {}
    tilts = np.asarray(tilts)
    return {
        "tilts": tilts if len(tilts) == 1 else tilts[indices],
        "tilt_mode": experiment.settings["tilt_mode"],
    }

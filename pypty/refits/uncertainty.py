"""Error bars of a reconstruction from the noise of its counts, by fits to counts drawn from its own model.

Parametric bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 6): patterns are simulated
from the result, Poisson noise is drawn, and a few epochs from the result fit the unknowns to these counts. Their
scatter over the draws is that of reconstructions of other measurements with the same dose, if the model is right. It
does not contain what is wrong with the model (geometry, coherence, thickness): error bars of noise only.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from pypty.backend.array import to_host
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.epochs.state import State
from pypty.engine.setup.comparison import count_model
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.reported import reported
from pypty.errors import ParameterError
from pypty.model.blocks import to_public
from pypty.output.files import atomic, make_folder
from pypty.refits.gauge import Area, difference, without_affine
from pypty.refits.refit import completed, drawn, thinned
from pypty.refits.reopen import Finished, at_the_end
from pypty.refits.words import MODEL, PREVIEW, THINNING
from pypty.trust.measure import measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOISE_ONLY = "noise only, not model error"
_SMOOTH_A = 0.6
"""Standard deviation of the Gaussian that smooths variances of a few draws."""
_UNITS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "slice_distances": ("slice_distances_A", 1.0),
        "tilts": ("tilts_mrad", 1e3),
        "aberrations_array": ("aberrations_A", 1.0),
    }
)
_REFINED = ("positions", *_UNITS)
_STATISTICS = ("ratio", "pix", "scan", "pattern_spread")


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Standard deviations from noise: noise only, not model error.

    Attributes
    ----------
    phase_rad : (y, x, z) of the phase of each slice inside ``area``, smoothed to the resolution ``lowpass_A``, without
        its mean, its ramp, and the common shift of object and positions
    total_phase_rad : (y, x) of the phase summed over slices
    area : rows and columns of the object: the scanned area
    pixel_size_A : (2,) [y, x]
    scan_A : (N, 2) scan positions [y, x] of the result
    positions_A : (N, 2) of each scan position [y, x] after shift, scale, rotation and shear of all; None if they were
        not refined
    slice_distances_A, tilts_mrad, aberrations_A : as the unknowns; None if they were not refined
    statistics : (repeats,) each: ``ratio``, ``pix``, ``scan`` and ``pattern_spread`` of the fits to drawn counts, which
        are those of a right model (:class:`pypty.trust.quality.FitQuality`); empty for a preview
    repeats, epochs, lowpass_A, method : as asked for; a preview has no repeats
    seconds : time it took
    """

    phase_rad: np.ndarray
    total_phase_rad: np.ndarray
    area: Area
    pixel_size_A: np.ndarray
    scan_A: np.ndarray
    positions_A: np.ndarray | None = None
    slice_distances_A: np.ndarray | None = None
    tilts_mrad: np.ndarray | None = None
    aberrations_A: np.ndarray | None = None
    statistics: dict[str, np.ndarray]
    repeats: int
    epochs: int
    lowpass_A: float
    method: str
    seconds: float

    @property
    def position_A(self) -> float:
        """Root of the mean square of ``positions_A``; NaN if positions were not refined."""
        return math.nan if self.positions_A is None else float(np.sqrt(np.mean(self.positions_A**2)))

    @property
    def text(self) -> str:
        """The numbers in words."""
        phase = float(np.sqrt(np.mean(self.total_phase_rad**2)))
        how = f"{self.repeats} fits to drawn counts" if self.repeats else "preview from the illumination"
        parts = [f"phase ±{phase:.2g} rad at {self.lowpass_A:g} Å"]
        if self.positions_A is not None:
            parts.append(f"positions ±{self.position_A:.2g} Å")
        if self.slice_distances_A is not None:
            parts.append(f"slice distances ±{float(np.sqrt(np.mean(self.slice_distances_A**2))):.2g} Å")
        if self.tilts_mrad is not None:
            parts.append(f"tilts ±{float(np.sqrt(np.mean(self.tilts_mrad**2))):.2g} mrad")
        if self.aberrations_A is not None:
            parts.append(f"aberrations ±{float(np.sqrt(np.mean(self.aberrations_A**2))):.2g} Å")
        return f"standard deviations ({NOISE_ONLY}; {how}): {', '.join(parts)}"

    def __str__(self) -> str:
        return self.text

    def plot(self) -> Figure:
        """The noise of the phase over the scanned area, and of the scan positions if these were refined."""
        from pypty.plots.refits import plot_uncertainty

        return plot_uncertainty(
            self.total_phase_rad,
            self.pixel_size_A,
            title=self.text,
            positions_A=self.scan_A,
            position_sigma_A=self.positions_A,
        )


@reported()
def uncertainty(
    finished_run: Finished,
    *,
    repeats: int = 6,
    epochs: int = 5,
    lowpass_A: float = 0.2,
    method: str = MODEL,
    seed: int = 0,
    folder: str | Path | None = None,
    **changes: Any,
) -> Uncertainty:
    """Standard deviations of phase, positions and other unknowns from the noise of the counts.

    Parameters
    ----------
    finished_run : a result, its output folder, or parameters whose arrays are the result (:meth:`Result.params`)
    repeats : fits to other counts; 0 = a preview from the illumination alone, 1/sqrt(2 sum |P|^2), at once
    epochs : of each fit, which begins at the result
    lowpass_A : standard deviation of the Gaussian that smooths phases before they are compared; 0 = pixels
    method : "model" (counts are drawn from the model) or "thinning" (twice a binomial half of the measured counts,
        where the model of the counts is not trusted)
    seed : of the draws
    folder : where finished fits are kept, so that an interrupted call goes on; None = in the output folder of the
        result, if it has one
    changes : parameters that replace those of the run, such as data_path

    Raises
    ------
    ParameterError
        A value is not possible, the data are no counts (whose noise cannot be drawn), or the parameters have problems.
    DataError
        "thinning", and the data are no whole counts.
    """
    _check(repeats, epochs, lowpass_A, method)
    started = time.perf_counter()
    params = {**at_the_end(finished_run), **changes}
    # the last epochs once more: what depends on the epoch is as it was in the end
    first = max(0, int(params.get("epoch_prev", 0)) - epochs)
    setup = prepare({**params, "epoch_prev": first, "epoch_max": first + epochs, "warmup_epochs": 0})
    try:
        base = Reconstruction(setup, State(variables=setup.variables(), epoch=first))
        kept = _kept(finished_run, folder)
        if method == MODEL and repeats and not measure(base).counts:
            raise ParameterError(
                "the data are no counts, so that their noise cannot be drawn from the model; give detector_gain and "
                "readout_noise (algorithm='poisson_gaussian'), or repeats=0 for a preview"
            )
        fits = []
        for k in range(repeats):
            name = f"{method}_{seed + k}_{epochs}"
            fit = functools.partial(_fit, base, method, seed + k, kept)
            fits.append(_remembered(kept, base, name, fit))
        return _summary(base, fits, epochs=epochs, lowpass_A=lowpass_A, method=method, started=started)
    finally:
        setup.close()


def _check(repeats: int, epochs: int, lowpass_A: float, method: str) -> None:
    if method not in (MODEL, THINNING):
        raise ParameterError(f"method: given {method!r}, expected {MODEL!r} or {THINNING!r}")
    if repeats < 0 or repeats == 1:
        raise ParameterError(
            f"repeats: given {repeats}, expected 0 (a preview), or at least 2 for a standard deviation"
        )
    if epochs < 1:
        raise ParameterError(f"epochs: given {epochs}, expected at least 1")
    if not (lowpass_A >= 0 and math.isfinite(lowpass_A)):
        raise ParameterError(f"lowpass_A: given {lowpass_A!r}, expected a length in Å, 0 or more")


def _kept(finished_run: Finished, folder: str | Path | None) -> Path | None:
    """The folder in which finished fits are kept."""
    if folder is not None:
        return Path(folder).expanduser()
    own = getattr(finished_run, "folder", None)
    own = Path(finished_run).expanduser() if isinstance(finished_run, (str, Path)) else own
    return None if own is None or not own.is_dir() else own / "uncertainty"


def _fit(base: Reconstruction, method: str, seed: int, scratch: Path | None) -> dict[str, np.ndarray]:
    """Public arrays and statistics of one fit."""
    setup = base.setup
    if method == THINNING:
        setup = thinned(setup, seed, factor=2.0)
    else:
        setup = dataclasses.replace(setup, held=drawn(base, seed, scratch))
    run = completed(setup, base.state.variables)
    quality = measure(run)
    found = {name: np.asarray(getattr(quality, name)) for name in _STATISTICS}
    return {**found, **_arrays(run)}


def _arrays(run: Reconstruction) -> dict[str, np.ndarray]:
    """The object, and the refined ones of the other unknowns."""
    now = run.settings.at(run.settings["epoch_max"] - 1)
    names = [name for name in refined_blocks(now, run.state.variables) if name in _REFINED]
    return {name: to_public(name, run.state.variables.block(name)) for name in ("obj", *names)}


def _remembered(
    folder: Path | None, base: Reconstruction, name: str, fit: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of a fit: from the file of an earlier call with the same result, or computed and written."""
    if folder is None:
        return fit()
    path = folder / f"{name}_{_digest(base)}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    make_folder(folder)  # large patterns that are drawn lie there, too
    found = fit()
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **found)  # type: ignore[arg-type]
    return found


def _digest(base: Reconstruction) -> str:
    """A hash of everything on which a fit depends: all unknowns, the data, and the settings."""
    found = hashlib.sha256(base.data_fingerprint.encode())
    settings, variables = base.settings, base.state.variables
    for name in variables.present:
        found.update(to_host(variables.block(name)).tobytes())
    values = {**settings.fixed, **settings.at(settings["epoch_max"] - 1)}
    for name in sorted(values):
        if name not in ("dataset", "n_threads", "compute_batch", "data_path"):
            value = values[name]
            found.update(
                name.encode() + (value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
            )
    return found.hexdigest()[:16]


def _summary(
    base: Reconstruction,
    fits: Sequence[dict[str, np.ndarray]],
    *,
    epochs: int,
    lowpass_A: float,
    method: str,
    started: float,
) -> Uncertainty:
    pixel_A = np.asarray(base.setup.grid.pixel_size_A)
    reference = _arrays(base)
    start = to_public("positions", base.state.variables.positions)
    probe = to_public("probe", base.state.variables.probe)
    area = Area.scanned(start, probe.shape[:2], reference["obj"].shape)
    lowpass_px = lowpass_A / float(pixel_A.mean())
    if fits:
        changes = np.stack(
            [difference(fit["obj"], reference["obj"], area=area, lowpass_px=lowpass_px) for fit in fits]
        )
        phase = np.stack([_deviation(changes[..., z], pixel_A) for z in range(changes.shape[-1])], axis=-1)
        total = _deviation(changes.sum(axis=-1), pixel_A)
    else:
        gain = count_model(base.setup).gain
        total = np.sqrt(gain) * _from_illumination(probe, start, reference["obj"].shape, area, lowpass_px)
        # errors of slices against each other are larger than that of their sum
        slices = reference["obj"].shape[2]
        phase = np.repeat(np.sqrt(slices) * total[..., None], slices, axis=2)
    found = _other_unknowns(fits, reference, pixel_A)
    return Uncertainty(
        phase_rad=phase,
        total_phase_rad=total,
        area=area,
        pixel_size_A=pixel_A,
        scan_A=start * pixel_A,
        statistics={name: np.array([float(fit[name]) for fit in fits]) for name in _STATISTICS if fits},
        repeats=len(fits),
        epochs=epochs,
        lowpass_A=lowpass_A,
        method=method if fits else PREVIEW,
        seconds=time.perf_counter() - started,
        **found,
    )


def _deviation(changes: np.ndarray, pixel_A: np.ndarray) -> np.ndarray:
    """(y, x) standard deviation over the draws (k, y, x), with its variance smoothed, as few draws scatter."""
    return np.sqrt(gaussian_filter(changes.var(axis=0, ddof=1), _SMOOTH_A / pixel_A))


def _other_unknowns(
    fits: Sequence[dict[str, np.ndarray]], reference: dict[str, np.ndarray], pixel_A: np.ndarray
) -> dict[str, np.ndarray]:
    """Standard deviations of the refined unknowns besides the object."""
    if not fits:
        return {}
    found = {}
    for name in reference:
        values = np.stack([fit[name] for fit in fits])
        if name == "positions" and values.shape[1] > 3:
            # compared with the result: object and probe follow an affine change of all positions
            changes = [without_affine((fit - reference[name]) * pixel_A, reference[name]) for fit in values]
            found["positions_A"] = np.std(changes, axis=0, ddof=1)
        elif name in _UNITS:
            key, unit = _UNITS[name]
            found[key] = unit * values.std(axis=0, ddof=1)
    return found


def _from_illumination(
    probe: np.ndarray, positions: np.ndarray, shape: tuple[int, ...], area: Area, lowpass_px: float
) -> np.ndarray:
    """(y, x) standard deviation of the summed phase if every electron that passes a pixel told its phase at the
    shot-noise limit, 1/sqrt(2 sum |P|^2), after the Gaussian lowpass."""
    ny, nx = probe.shape[:2]
    intensity = (np.abs(probe.reshape(ny, nx, -1)) ** 2).sum(axis=2) * ny * nx
    if probe.ndim == 4:  # each position has one of the probes
        intensity /= probe.shape[3]
    lit = np.zeros(shape[:2])
    for y, x in np.rint(positions).astype(int):
        lit[y : y + ny, x : x + nx] += intensity
    # white noise after a Gaussian of s pixels: its variance falls by 4 pi s^2
    factor = 1 / max(1.0, math.sqrt(4 * math.pi) * lowpass_px)
    return factor / np.sqrt(2 * np.maximum(area.of(lit), np.finfo(float).tiny))

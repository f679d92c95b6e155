"""Random combinations of effects, modes and shapes: tiny problems in which everything may meet everything.

Their data are made from the model's own patterns, so that no loss has a kink nearby: there are no counts where the
model has next to none (the square root of an intensity has a kink at zero), except where it can never have any. Phases
of the object stay away from zero and pi, amplitudes from one, neighbours from each other, sub-pixel offsets from one
half.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from helpers import random_complex
from hypothesis import strategies as st

import pypty
from pypty.optics.aberrations import aberration_basis
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A

PIXEL_A = (0.31, 0.26)
VOLTAGE_KV = 80.0
COUNTS = 2000.0
"""Electrons per pattern."""
DARK = 1e-3
"""Model intensities below this fraction of the mean have no counts in the data."""
APART = 0.01
"""Neighbouring object pixels differ by at least this."""

ALGORITHMS = ("lsq_sqrt", "ml", "lsq", "lsq_sqrt_2", "poisson_gaussian")
COMPRESSED = ("lsq_compressed", "gauss_compressed", "poisson_compressed")
PROPAGATIONS = ("multislice", "better_multislice", "yoshida", "angular_spectrum")
FOURTH_ORDER = ("better_multislice", "yoshida")
SCAN_WEIGHTS = {
    f"{kind}_reg_weight_{block}": weight
    for kind in ("fast_axis", "slow_axis", "deformation")
    for block, weight in (("positions", 30.0), ("tilts", 1e6))
}
OBJECT_WEIGHTS = {
    "phase_norm_weight": 1.0,
    "abs_norm_weight": 1.0,
    "atv_weight": 1.0,
    "mixed_variance_weight": 1.0,
    "wedge_mu": 1e-3,
}
PROBE_WEIGHTS = {
    "probe_reg_constraint_weight": 0.1,
    "window_weight": 10.0,
    "probe_mod_reg_weight": 0.1,
}
WEIGHTS = {**SCAN_WEIGHTS, **OBJECT_WEIGHTS, **PROBE_WEIGHTS}
"""Regularisers, and weights that make them a fair part of the loss."""


def block_of(regularizer: str) -> str:
    """The block of unknowns that a penalty acts on."""
    if regularizer in SCAN_WEIGHTS:
        return regularizer.rsplit("_", 1)[1]
    return "obj" if regularizer in OBJECT_WEIGHTS else "probe"


@dataclass(frozen=True)
class Configuration:
    """One combination. What does not fit to the rest is left out by :func:`parameters` and :func:`effects`.

    Attributes
    ----------
    seed : of all numbers
    sides : the window is at most this large, a little smaller or larger with padding or upsampling
    scan : points (slow, fast)
    rim : detector pixels of padding
    positions : "free", "on pixels", "fixed", "fixed on pixels", "rounded", or "common" for all patterns
    distances : "one" for all gaps, or "each"
    tilts : "none", "zero" (not given, but refined), "common" or "own"
    defocus : of near-field images, "none" (far field), "common" or "own"
    aberrations : terms of every group; 0 = none
    subscans : probe scenarios; 0 = none
    current : "none", "one" (not given, but refined) or "given"
    weights : ``detector_mask``, "none", "common", "own" or "nan"
    frozen : a block that is not refined, or ""
    """

    seed: int
    sides: tuple[int, int]
    scan: tuple[int, int]
    probe_modes: int
    object_modes: int
    slices: int
    distances: str
    propagation: str
    positions: str
    tilts: str
    tilt_mode: int
    defocus: str
    lens: bool
    source: bool
    aberrations: int
    subscans: int
    plates: bool
    current: str
    background: bool
    blur: bool
    gains: bool
    upsample: int
    rim: int
    rim_compared: bool
    algorithm: str
    readout: bool
    weights: str
    lazy_clean: bool
    cutoff: float
    object_form: str
    probe_form: str
    affine: bool
    rolloff: bool
    projected: bool
    regularizers: frozenset[str]
    frozen: str
    some_patterns: bool
    loss_weight: float | str
    batch: int | str
    threads: int

    @property
    def n_patterns(self) -> int:
        return self.scan[0] * self.scan[1]

    @property
    def pad(self) -> int:
        """``data_pad``, model pixels."""
        return self.upsample * min(self.rim, 1 if self.upsample > 1 else 2)

    @property
    def detector(self) -> tuple[int, int]:
        """(ky, kx) of a measured pattern."""
        ky, kx = (max(2, (side - 2 * self.pad) // self.upsample) for side in self.sides)
        return ky, kx

    @property
    def window(self) -> tuple[int, int]:
        ky, kx = self.detector
        return self.upsample * ky + 2 * self.pad, self.upsample * kx + 2 * self.pad

    @property
    def virtual(self) -> bool:
        """Whether the data are sums over virtual detectors."""
        return self.algorithm in COMPRESSED

    @property
    def compared(self) -> tuple[int, int]:
        """(ky, kx) of the patterns that are compared, before virtual detectors."""
        rim = self.pad // self.upsample if self.rim_compared and not self.virtual else 0
        return self.detector[0] + 2 * rim, self.detector[1] + 2 * rim

    @property
    def gaps(self) -> int:
        """Propagations, of which the fourth-order integrators have one more."""
        return self.slices if self.propagation in FOURTH_ORDER else self.slices - 1

    @property
    def grid(self) -> Grid:
        return Grid(self.window, PIXEL_A, wavelength_A(VOLTAGE_KV))

    @property
    def refined(self) -> set[str]:
        """Names of the blocks that have a gradient."""
        there = {
            "obj": True,
            "probe": True,
            "positions": self.positions in ("free", "on pixels", "common"),
            "slice_distances": self.gaps > 0,
            "tilts": self.tilts != "none",
            "aberrations_array": self.aberrations > 0,
            "static_background": self.background,
            "beam_current": self.current != "none",
            "detector_blur_std": self.blur,
            "detector_gains": self.gains,
        }
        return {name for name, is_there in there.items() if is_there and name not in self._fixed}

    @property
    def _fixed(self) -> set[str]:
        """A frozen block; what is there only to be refined cannot be frozen."""
        only_refined = {"tilts"} if self.tilts == "zero" else set()
        only_refined |= {"beam_current"} if self.current == "one" else set()
        return {self.frozen} - only_refined

    @property
    def given_regularizers(self) -> set[str]:
        """Those that may be given: one position for all patterns is no scan."""
        return {name for name in self.regularizers if self.positions != "common" or name not in SCAN_WEIGHTS}

    @property
    def active_regularizers(self) -> set[str]:
        """Those that are in the loss: their block is refined. An infinite weight is a projection instead."""
        projected = {"probe_reg_constraint_weight"} if self.projected else set()
        return {name for name in self.given_regularizers - projected if block_of(name) in self.refined}


CHOICES: dict[str, tuple[Any, ...]] = {
    "height": tuple(range(8, 15)),
    "width": tuple(range(8, 15)),
    "scan": ((1, 3), (3, 1), (2, 2), (2, 3), (3, 2), (1, 4)),
    "probe_modes": (1, 2, 3),
    "object_modes": (1, 2),
    "slices": (1, 2, 3, 4),
    "distances": ("one", "each"),
    "propagation": PROPAGATIONS,
    "positions": ("free", "on pixels", "fixed", "fixed on pixels", "rounded", "common", "free", "free"),
    "tilts": ("none", "own", "common", "own", "zero", "common", "own", "common"),
    "tilt_mode": (0, 1, 2, 3, 4),
    "defocus": ("none", "common", "own", "none"),
    "lens": (False, True),
    "source": (False, True),
    "aberrations": (0, 1, 3, 0, 8),
    "subscans": (0, 2, 3, 0),
    "plates": (False, True),
    "current": ("none", "given", "one"),
    "background": (False, True),
    "blur": (False, True),
    "upsample": (1, 2, 1, 3),
    "rim": (0, 1, 2),
    "rim_compared": (False, True),
    "algorithm": ALGORITHMS + COMPRESSED,
    "readout": (False, True),
    "weights": ("none", "common", "own", "nan"),
    "lazy_clean": (False, True),
    "cutoff": (2 / 3, 0.9, 2.0),
    "object_form": ("complex", "phase", "amplitude_phase"),
    "probe_form": ("complex", "fourier_phase", "fourier_amplitude"),
    "affine": (False, True),
    "rolloff": (False, True),
    "projected": (False, True),
    "frozen": ("", "obj", "", "probe", "", "tilts", "", "slice_distances", "", "beam_current", ""),
    "some_patterns": (False, True, False),
    "loss_weight": (1.0, 0.37, "mean", "mean_full"),
    "batch": ("auto", 1, 2),
    "threads": (1, 2, 1),
    "bare beam": (False, True, False, False),
    **{name: (False, True) if name in SCAN_WEIGHTS else (False, True, False, False) for name in WEIGHTS},
    "gains": (False, True),
}
"""What each attribute may be, the simplest first; False or True for each regulariser. With a bare beam all patterns
meet the same probe, so that batches have length 1 up to the specimen."""
_SEED_BYTES = 3
N_BYTES = len(CHOICES) + _SEED_BYTES
"""One for every choice, and a few for the seed."""


def configurations() -> st.SearchStrategy[Configuration]:
    """One byte for every choice and a few for the seed: all choices are independent, and each shrinks on its own."""
    return st.binary(min_size=N_BYTES, max_size=N_BYTES).map(configuration_of)


def describe(configuration: Configuration) -> str:
    """The attributes that differ from the simplest configuration."""
    simplest = vars(configuration_of(bytes(N_BYTES)))
    return ", ".join(f"{k}={v!r}" for k, v in vars(configuration).items() if v != simplest[k])


def configuration_of(code: bytes) -> Configuration:
    """That of N_BYTES bytes."""
    chosen = {
        name: options[byte % len(options)]
        for (name, options), byte in zip(CHOICES.items(), code, strict=False)
    }
    regularizers = frozenset(name for name in WEIGHTS if chosen.pop(name))
    sides = (chosen.pop("height"), chosen.pop("width"))
    if chosen.pop("bare beam"):
        chosen.update(positions="fixed on pixels", plates=False, aberrations=0, subscans=0)
    seed = int.from_bytes(code[-_SEED_BYTES:], "big")
    return Configuration(seed=seed, sides=sides, regularizers=regularizers, **chosen)


def effects(configuration: Configuration) -> set[str]:
    """Names of what acts in a configuration."""
    c = configuration
    ny, nx = c.window
    acting = [name for name in c.active_regularizers if _acts(c, name)]
    named = {
        f"{c.probe_modes} probe modes",
        f"{c.object_modes} object modes",
        f"{c.slices} slices",
        f"{c.propagation}, {'slices' if c.slices > 1 else 'one slice'}",
        f"positions {c.positions}",
        f"upsample_pattern {c.upsample}",
        c.algorithm,
        f"object {c.object_form}" if "obj" in c.refined else "object not refined",
        f"probe {c.probe_form}" if "probe" in c.refined else "probe not refined",
        f"batch {c.batch}, threads {c.threads}",
        *(f"gradient of {name}" for name in c.refined),
        *acting,
    }
    shared = c.positions in ("fixed on pixels", "rounded") and not (c.plates or c.aberrations or c.subscans)
    present = {
        "one probe for all patterns": shared and (c.tilts == "none" or c.tilt_mode not in (2, 4)),
        "odd window": ny % 2 == 1 or nx % 2 == 1,
        "rectangular window": ny != nx,
        "several slices": c.slices > 1,
        "fourth order": c.propagation in FOURTH_ORDER,
        "one distance": c.distances == "one" and c.gaps > 1,
        "several distances": c.distances == "each" and c.gaps > 1,
        "tilts": c.tilts != "none",
        f"tilt_mode {c.tilt_mode}": c.tilts != "none",
        f"tilt_mode {c.tilt_mode}, {c.tilts}": c.tilts in ("common", "own"),
        "tilts from zero": c.tilts == "zero",
        "near field": c.defocus != "none",
        f"near field, {c.defocus} defocus": c.defocus != "none",
        "far field": c.defocus == "none",
        "Cs": c.defocus != "none" and c.lens,
        "alpha_near_field": c.defocus != "none" and c.source,
        "local aberrations": c.aberrations > 0,
        "probe scenarios": c.subscans > 0,
        "phase plates": c.plates,
        "beam current": c.current != "none",
        f"beam current {c.current}": c.current != "none",
        "static background": c.background,
        "detector blur": c.blur,
        "detector gains": c.gains,
        "upsampled": c.upsample > 1,
        "padded": c.compared != c.detector,
        "cropped": c.pad > 0 and c.compared == c.detector,
        "virtual detectors": c.virtual,
        "read-out noise": c.algorithm == "poisson_gaussian" and c.readout,
        f"detector mask {c.weights}": c.weights != "none" and not c.virtual,
        "lazy_clean": c.lazy_clean,
        "affine positions": c.affine and "positions" in c.refined and c.n_patterns > 3,
        "soft edge": c.rolloff,
        "projected aperture": c.projected and "probe_reg_constraint_weight" in c.regularizers,
        "some patterns": c.some_patterns,
        "regularised": len(acting) > 0,
    }
    return named | {name for name, is_there in present.items() if is_there}


def _acts(c: Configuration, regularizer: str) -> bool:
    """Whether a penalty may be other than zero."""
    rows, columns = c.scan
    needs = {
        "fast_axis": columns > 2,
        "slow_axis": rows > 2,
        "mixed_variance": c.object_modes > 1,
        "wedge": c.slices > 1,
    }
    one_tilt = regularizer.endswith("_tilts") and c.tilts != "own"
    return not one_tilt and all(met for name, met in needs.items() if regularizer.startswith(name))


def parameters(configuration: Configuration, folder: Path) -> dict[str, Any]:
    """Parameters of a configuration; phase plates are written into ``folder``."""
    c = configuration
    rng = np.random.default_rng(c.seed)
    params: dict[str, Any] = {
        "acc_voltage": VOLTAGE_KV,
        "pixel_size_y_A": PIXEL_A[0],
        "pixel_size_x_A": PIXEL_A[1],
        "damping_cutoff_multislice": c.cutoff,
        "smooth_rolloff": 0.1 if c.rolloff else 0.0,
        "lazy_clean": c.lazy_clean,
        "propmethod": c.propagation,
        "data_pad": c.pad,
        "upsample_pattern": c.upsample,
        "use_padded_intensity": c.rim_compared,
        "algorithm": c.algorithm,
        "default_dtype": "double",
        "loss_weight": c.loss_weight,
        "skip_preprocessing": True,
        "backend": "cpu",
        "n_threads": c.threads,
        "compute_batch": c.batch,
        "print_flag": 0,
        **_beam_and_object(c, rng),
        **_optional_unknowns(c, rng),
        **_instrument(c, rng, folder),
        **_regularizers(c, rng),
        **_forms(c),
    }
    if c.some_patterns:
        params["sequence"] = np.sort(rng.permutation(c.n_patterns)[:-1])
    return {**params, **_data(c, params, rng)}


def _beam_and_object(c: Configuration, rng: np.random.Generator) -> dict[str, Any]:
    """Probe, object, positions and distances."""
    rows = 1 if c.positions == "common" else c.n_patterns
    crop_origins = rng.integers(0, 4, (rows, 2))
    offset = rng.uniform(0.05, 0.35, (rows, 2)) * rng.choice([-1, 1], (rows, 2))
    on_pixels = "on pixels" in c.positions
    positions = crop_origins + np.where(crop_origins == 0, np.abs(offset), offset) * (0 if on_pixels else 1)
    ny, nx = c.window
    n_distances = c.gaps if c.distances == "each" else 1
    return {
        "obj": _object(rng, (ny + 4, nx + 4, c.slices, c.object_modes)),
        "probe": _probe(c, rng),
        "positions": positions,
        "allow_subPixel_shift": c.positions != "rounded",
        "slice_distances": rng.uniform(15, 30, max(n_distances, 1)),
    }


def _object(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random transmission whose neighbours are never alike, around the edge too."""
    obj = _transmission(rng, shape)
    while True:
        alike = np.zeros(shape, bool)
        for axis in (0, 1):
            alike |= np.abs(obj - np.roll(obj, 1, axis)) < APART
        if not alike.any():
            return obj
        obj = np.where(alike, _transmission(rng, shape), obj)


def _transmission(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    amplitude = rng.uniform(0.6, 0.95, shape)
    return amplitude * np.exp(1j * rng.uniform(0.1, 0.7, shape) * rng.choice([-1, 1], shape))


def _probe(c: Configuration, rng: np.random.Generator) -> np.ndarray:
    """Probes whose spectrum is nowhere small: (y, x, modes), with subscans on a last axis."""
    ny, nx = c.window
    shape = (max(c.subscans, 1), c.probe_modes, ny, nx)
    frequency = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)[None, :])
    spectrum = rng.uniform(0.5, 1.5, shape) * np.exp(2j * np.pi * rng.uniform(size=shape))
    spectrum *= np.exp(-((frequency / 0.5) ** 2))
    power = COUNTS / c.object_modes * (ny * nx if c.defocus != "none" else 1)
    spectrum *= np.sqrt(power / (np.abs(spectrum) ** 2).sum(axis=(1, 2, 3), keepdims=True))
    probe = np.fft.fftshift(np.fft.ifft2(spectrum), axes=(2, 3)).transpose(2, 3, 1, 0)
    return probe if c.subscans else probe[..., 0]


def _optional_unknowns(c: Configuration, rng: np.random.Generator) -> dict[str, Any]:
    """Unknowns that a model may do without, and what is refined."""
    n = c.n_patterns
    params: dict[str, Any] = {
        "update_obj": c.frozen != "obj",
        "update_probe": c.frozen != "probe",
        "update_probe_pos": "positions" in c.refined,
        "update_slice_distances": c.frozen != "slice_distances",
        "update_tilts": "tilts" in c.refined,
        "tilt_mode": c.tilt_mode,
        "update_aberrations_array": "aberrations_array" in c.refined,
        "update_static_background": "static_background" in c.refined,
        "update_beam_current": "beam_current" in c.refined,
        "update_detector_blur_std": "detector_blur_std" in c.refined,
        "update_detector_gains": "detector_gains" in c.refined,
    }
    if c.tilts in ("common", "own"):
        params["tilts"] = 1e-3 * rng.standard_normal((1 if c.tilts == "common" else n, 6))
    if c.current == "given":
        params["beam_current"] = rng.uniform(0.8, 1.2, n)
    if c.background:
        mean = COUNTS / np.prod(c.compared)
        params["static_background"] = np.sqrt(mean) * rng.uniform(0.2, 0.6, c.compared)
    if c.blur:
        params["detector_blur_std"] = rng.uniform(0.4, 1.0)
    if c.gains:
        params["detector_gains"] = rng.uniform(0.7, 1.3, (2, 2))
    if c.aberrations:
        groups = int(rng.integers(1, 4))
        params["aberration_marker"] = rng.integers(0, groups, n)
        params["aberrations_array"] = aberration_units(c) * rng.uniform(-1, 1, (groups, c.aberrations))
    if c.subscans:
        params["probe_marker"] = rng.integers(0, c.subscans, n)
    return params


def aberration_units(c: Configuration) -> np.ndarray:
    """(K,) Å: what changes the phase by 1 rad at the edge of the window."""
    return 1 / np.abs(aberration_basis(c.grid, c.aberrations)).max(axis=(1, 2))


def _instrument(c: Configuration, rng: np.random.Generator, folder: Path) -> dict[str, Any]:
    """Where and how the patterns are measured."""
    params: dict[str, Any] = {}
    n = c.n_patterns
    if c.defocus != "none":
        defocus = rng.uniform(60, 160, n if c.defocus == "own" else 1)
        params["recon_type"] = "near_field"
        params["defocus_array"] = defocus * rng.choice([-1, 1], len(defocus))
        params["Cs"] = rng.uniform(3e3, 1e4) if c.lens else 0.0
        params["alpha_near_field"] = rng.uniform(1e-2, 1.5e-2) if c.source else 0.0
    if c.algorithm == "poisson_gaussian":
        params["detector_gain"] = rng.uniform(0.5, 3)
        params["readout_noise"] = rng.uniform(0.5, 3) if c.readout else 0.0
    if c.virtual:
        params["masks"] = rng.uniform(0, 1, (5, *c.detector))
    if c.plates:
        params["phase_plate_in_h5"] = str(folder / "plates.h5")
        plates = rng.uniform(0.5, 1, (n, *c.window)) * np.exp(1j * random_complex(rng, (n, *c.window)).real)
        with h5py.File(params["phase_plate_in_h5"], "w") as file:
            file["configs"] = plates
    return params


def _regularizers(c: Configuration, rng: np.random.Generator) -> dict[str, Any]:
    """Weights within a factor of ten, and what they need."""
    params: dict[str, Any] = {
        "atv_p": float(rng.choice([1.0, 1.5, 2.0])),
        "atv_q": rng.uniform(0.5, 2),
        "mixed_variance_sigma": rng.uniform(0.2, 0.6),
        "beta_wedge": rng.uniform(0.5, 2),
        "probe_constraint_mask": rng.uniform(0.4, 0.8),
        "window": np.array([0.3, rng.uniform(0.4, 0.9)]),
        "scan_step_A": rng.uniform(2, 4),
        "probe_mod_tol": rng.uniform(0.2, 0.4),
    }
    for name in sorted(c.given_regularizers):
        params[name] = WEIGHTS[name] * 10 ** rng.uniform(-0.5, 0.5)
    if c.projected and "probe_reg_constraint_weight" in c.regularizers:
        params["probe_reg_constraint_weight"] = np.inf
    if c.positions != "common":
        params["scan_size"] = np.array(c.scan)
    return params


def _forms(c: Configuration) -> dict[str, Any]:
    """How the optimiser moves object, probe and positions."""
    return {
        "phase_only_obj": c.object_form == "phase",
        "obj_parametrization": "amplitude_phase" if c.object_form == "amplitude_phase" else "complex",
        "tune_only_probe_phase": c.probe_form == "fourier_phase",
        "tune_only_probe_abs": c.probe_form == "fourier_amplitude",
        "positions_parametrization": "affine" if c.affine else "free",
    }


def _data(c: Configuration, params: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Counts near those of the model, and detector weights."""
    n = c.n_patterns
    shape = (n, len(params["masks"])) if c.virtual else (n, *c.detector)
    model = pypty.simulate({**params, "dataset": np.ones(shape)})
    rim = (c.compared[0] - c.detector[0]) // 2
    if rim:
        model = model[:, rim:-rim, rim:-rim]
    data = model * rng.uniform(0.6, 1.5, shape)
    data[model < DARK * model.mean()] = 0
    if not c.blur and c.defocus == "none":
        never = model == 0  # beyond the band limit
        data[never] = rng.integers(0, 5, int(never.sum()))
    if c.algorithm == "poisson_gaussian" and c.readout:
        data += params["readout_noise"] * rng.standard_normal(shape)
    if c.virtual or c.weights == "none":
        return {"dataset": data}
    mask = rng.uniform(0.1, 1, shape if c.weights != "common" else shape[1:])
    mask *= rng.uniform(size=mask.shape) > 0.2
    brightest = np.unravel_index(model.mean(axis=0).argmax(), c.detector)
    mask[..., brightest[0], brightest[1]] = 1
    if c.weights == "nan":
        return {"dataset": np.where(mask > 0, data, np.nan), "detector_mask": "nan"}
    return {"dataset": data, "detector_mask": mask}

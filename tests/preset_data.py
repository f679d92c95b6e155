"""Simulated experiments for the tests of the presets, computed without the model that reconstructs them.

Atoms scatter as screened Coulomb potentials (Wentzel 1927; Kirkland, Advanced Computing in Electron Microscopy, ch. 5).
Waves are computed here with plain NumPy: pixels half as wide as the detector asks for, slices thinner than those of the
presets, beams that are sums over a source, scan points that are not where they were meant to be. Counts are Poisson.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import constants, fft
from scipy.ndimage import gaussian_filter

import pypty
from pypty.quality import Agreement, phase_agreement

BOHR_A = 0.529177
_BATCH = 64


@dataclass(frozen=True)
class Beam:
    """A convergent beam and the detector behind it.

    Attributes
    ----------
    voltage_kV, semiangle_mrad, C10_A : of the probe (C10 > 0 is overfocus)
    n_pixels : of the detector, along each axis
    field_A : one over the detector's pixel: side of the window in real space
    """

    voltage_kV: float
    semiangle_mrad: float
    C10_A: float
    n_pixels: int
    field_A: float

    @property
    def wavelength_A(self) -> float:
        return wavelength_A(self.voltage_kV)


@dataclass(frozen=True)
class Experiment:
    """What a microscopist would have (``params``, ``patterns``, nominal positions), and the truth.

    Attributes
    ----------
    params : data and geometry for ``pypty.run``; a preset is added to them
    phase : (Y, X) rad, projected over the whole thickness, pixel (0, 0) at (0, 0) Å
    pixel_A : of ``phase``
    positions_A : (N, 2) where the beam was, or the corners of images
    area_A : (2, 2) corners [y, x] of what is compared with the truth
    images : the data are images, and positions those of their corners
    """

    params: dict[str, Any]
    phase: np.ndarray
    pixel_A: float
    positions_A: np.ndarray
    area_A: np.ndarray
    images: bool = False


def wavelength_A(voltage_kV: float) -> float:
    """Relativistic wavelength of electrons."""
    energy = voltage_kV * 1e3 * constants.e
    rest = constants.m_e * constants.c**2
    return 1e10 * constants.h * constants.c / np.sqrt(energy * (energy + 2 * rest))


def interaction(voltage_kV: float) -> float:
    """Wavelength times relativistic mass ratio, Å: phase = this x the transform of scattering factors."""
    gamma = 1 + voltage_kV * 1e3 * constants.e / (constants.m_e * constants.c**2)
    return wavelength_A(voltage_kV) * gamma


def atoms_phase(
    atoms: np.ndarray, side_A: float, n_pixels: int, voltage_kV: float, b_factor_A2: float = 0.6
) -> np.ndarray:
    """(n, n) rad: phase of atoms (K, 3) of [y, x, Z] in a periodic square, Debye-Waller factor included.

    f(q) = (2 Z / a0) / (1/a^2 + (2 pi q)^2), a = 0.885 a0 Z^(-1/3).
    """
    q = np.fft.fftfreq(n_pixels, side_A / n_pixels)
    q2 = q[:, None] ** 2 + q[None, :] ** 2
    spectrum = np.zeros((n_pixels, n_pixels), complex)
    for number in np.unique(atoms[:, 2]):
        here = atoms[atoms[:, 2] == number]
        radius = 0.885 * BOHR_A * number ** (-1 / 3)
        factor = (2 * number / BOHR_A) / (radius**-2 + (2 * np.pi) ** 2 * q2)
        along_y, along_x = (np.exp(-2j * np.pi * here[:, axis, None] * q) for axis in (0, 1))
        spectrum += factor * (along_y.T @ along_x)
    spectrum *= interaction(voltage_kV) * np.exp(-b_factor_A2 * q2 / 4)
    return np.fft.ifft2(spectrum).real * (n_pixels / side_A) ** 2


def lattice(
    cell_A: tuple[float, float], basis: Sequence[tuple[float, float, float]], side_A: float
) -> np.ndarray:
    """(K, 3) atoms [y, x, Z] of a rectangular cell with a basis in fractional coordinates, over a square."""
    atoms = [
        ((i + y) * cell_A[0], (j + x) * cell_A[1], z)
        for i in range(-1, int(side_A / cell_A[0]) + 2)
        for j in range(-1, int(side_A / cell_A[1]) + 2)
        for y, x, z in basis
    ]
    array = np.array(atoms)
    inside = ((array[:, :2] >= 0) & (array[:, :2] < side_A)).all(axis=1)
    return array[inside]


def mos2_layer(side_A: float, seed: int = 5) -> np.ndarray:
    """(K, 3) atoms of a MoS2 monolayer with sulphur vacancies and a few foreign atoms."""
    a = 3.16
    cell = (a, a * np.sqrt(3))
    basis = [(0, 0, 42), (0.5, 0.5, 42)]
    basis += [(0, 1 / 3, 16), (0.5, 5 / 6, 16)] * 2
    atoms = lattice(cell, basis, side_A)
    rng = np.random.default_rng(seed)
    sulphur = np.flatnonzero(atoms[:, 2] == 16)
    gone = rng.choice(sulphur, len(sulphur) // 20, replace=False)
    atoms = np.delete(atoms, gone, axis=0)
    metal = np.flatnonzero(atoms[:, 2] == 42)
    atoms[rng.choice(metal, len(metal) // 15, replace=False), 2] = 74
    return atoms


def scan_A(shape: tuple[int, int], step_A: float, corner_A: float) -> np.ndarray:
    """(N, 2) [y, x] of a raster, fast axis last."""
    y, x = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    return np.stack([y.ravel(), x.ravel()], axis=1) * step_A + corner_A


def focused(beam: Beam, n_pixels: int, C10_A: float) -> np.ndarray:
    """(n, n) complex spectrum of the probe, zero frequency first; total power of its pattern is 1."""
    q = np.fft.fftfreq(n_pixels, beam.field_A / n_pixels)
    q2 = q[:, None] ** 2 + q[None, :] ** 2
    edge = 0.5 + (beam.semiangle_mrad * 1e-3 / beam.wavelength_A - np.sqrt(q2)) * beam.field_A
    spectrum = np.clip(edge, 0, 1) * np.exp(-1j * np.pi * beam.wavelength_A * C10_A * q2)
    return spectrum / np.sqrt((np.abs(spectrum) ** 2).sum())


def diffract(
    beam: Beam,
    phases: np.ndarray,
    side_A: float,
    positions_A: np.ndarray,
    slice_A: float = 0.0,
    source: Iterable[tuple[float, float, float, float]] = ((0.0, 0.0, 0.0, 1.0),),
) -> np.ndarray:
    """(N, n, n) fractions of the beam, zero frequency at n//2.

    Parameters
    ----------
    phases : (slices, Y, Y) rad, periodic, with pixels of which 2 n fill the beam's field
    source : (dy, dx, defocus, weight) of each incoherent part of the beam, Å
    """
    n = 2 * beam.n_pixels
    pixel = side_A / phases.shape[-1]
    assert np.isclose(pixel * n, beam.field_A)
    q = np.fft.fftfreq(n, pixel)
    q2 = q[:, None] ** 2 + q[None, :] ** 2
    propagator = np.exp(-1j * np.pi * beam.wavelength_A * slice_A * q2) * (q2 < (2 / 3 * q.max()) ** 2)
    transmission = np.exp(1j * phases).astype(np.complex64)
    propagator = propagator.astype(np.complex64)
    keep = slice((n - beam.n_pixels) // 2, (n + beam.n_pixels) // 2)
    out = np.zeros((len(positions_A), beam.n_pixels, beam.n_pixels))
    for dy, dx, defocus, weight in source:
        spectrum = focused(beam, n, beam.C10_A + defocus)
        for start in range(0, len(positions_A), _BATCH):
            here = positions_A[start : start + _BATCH] + (dy, dx)
            corner = np.floor(here / pixel).astype(int)
            rest = here - corner * pixel
            ramp = np.exp(-2j * np.pi * (rest[:, 0, None, None] * q[:, None] + rest[:, 1, None, None] * q))
            wave = np.fft.fftshift(fft.ifft2((spectrum * ramp).astype(np.complex64)), (-2, -1))
            rows = (corner[:, 0, None] + np.arange(n) - n // 2) % phases.shape[-2]
            columns = (corner[:, 1, None] + np.arange(n) - n // 2) % phases.shape[-1]
            for index, layer in enumerate(transmission):
                wave = wave * layer[rows[:, :, None], columns[:, None, :]]
                if index < len(transmission) - 1:
                    wave = fft.ifft2(fft.fft2(wave) * propagator)
            pattern = np.fft.fftshift(np.abs(fft.fft2(wave)) ** 2, (-2, -1))
            out[start : start + _BATCH] += weight * pattern[:, keep, keep]
    return out


def image(wave: np.ndarray, pixel_A: float, wavelength: float, defocus_A: float, alpha: float) -> np.ndarray:
    """(..., n, n) intensity of a periodic wave after ``defocus_A``, blurred by the illumination's semi-angle (rad).

    The blur is a Gaussian of standard deviation alpha |defocus| / sqrt(2).
    """
    q = np.fft.fftfreq(wave.shape[-1], pixel_A)
    q2 = q[:, None] ** 2 + q[None, :] ** 2
    moved = fft.ifft2(fft.fft2(wave) * np.exp(-1j * np.pi * wavelength * defocus_A * q2))
    blur = alpha * abs(defocus_A) / np.sqrt(2) / pixel_A
    return gaussian_filter(np.abs(moved) ** 2, blur, mode="wrap", axes=(-2, -1))


def particles_phase(
    side_A: float, n_pixels: int, voltage_kV: float, count: int, radii_A: tuple[float, float], seed: int
) -> np.ndarray:
    """(n, n) rad: spheres of 17 V mean inner potential on a film (9 V) that is 3 Å rough; periodic."""
    rng = np.random.default_rng(seed)
    pixel = side_A / n_pixels
    axis = (np.arange(n_pixels) + 0.5) * pixel
    spheres = np.zeros((n_pixels, n_pixels))
    for _ in range(count):
        centre, radius = rng.uniform(0, side_A, 2), rng.uniform(*radii_A)
        y, x = ((axis - c + side_A / 2) % side_A - side_A / 2 for c in centre)
        spheres += 2 * np.sqrt(np.clip(radius**2 - y[:, None] ** 2 - x[None, :] ** 2, 0, None))
    film = gaussian_filter(rng.normal(size=spheres.shape), 4 / pixel, mode="wrap")
    film *= 3 / film.std()
    per_volt = 2 * np.pi * constants.m_e * constants.e / constants.h**2 * 1e-20 * interaction(voltage_kV)
    return per_volt * (17 * gaussian_filter(spheres, 2 / pixel, mode="wrap") + 9 * film)


def geometry(beam: Beam) -> dict[str, Any]:
    """Voltage, defocus, padding by a quarter of the detector and pixel sizes, as ``pypty.run`` takes them."""
    pad = beam.n_pixels // 4
    pixel = beam.field_A / (beam.n_pixels + 2 * pad)
    return {
        "acc_voltage": beam.voltage_kV,
        "extra_probe_defocus": beam.C10_A,
        "data_pad": pad,
        **shared(pixel),
    }


def shared(pixel_A: float) -> dict[str, Any]:
    """Pixel size, and what the tests want of every run."""
    return {"pixel_size_x_A": pixel_A, "pixel_size_y_A": pixel_A, "backend": "cpu", "print_flag": 0}


def corners_A(positions_A: np.ndarray) -> np.ndarray:
    """(2, 2) lowest and highest [y, x]."""
    return np.stack([positions_A.min(axis=0), positions_A.max(axis=0)])


def counted(patterns: np.ndarray, electrons: float, seed: int) -> np.ndarray:
    """Poisson counts of patterns of unit power."""
    return np.random.default_rng(seed).poisson(patterns * electrons).astype(np.int32)


def agreement(result: pypty.Result, experiment: Experiment, margin_A: float = 0.6) -> Agreement:
    """Correlation of the phase with the truth inside ``area_A``."""
    pixel = float(result.pixel_size_A[0])
    if experiment.images:  # corners of pixels, not their centres
        pad = experiment.params.get("data_pad", result.settings["data_pad"])
        places = (result.positions + pad) * pixel
        origin = (experiment.positions_A - places).mean(axis=0) + (pixel - experiment.pixel_A) / 2
        search = pixel
    else:
        places = (result.positions + np.array(result.probe.shape[:2]) // 2) * pixel
        origin = (experiment.positions_A - places).mean(axis=0)
        search = 1.0
    return phase_agreement(
        result.phase,
        pixel,
        origin_A=origin,
        truth=experiment.phase,
        truth_pixel_A=experiment.pixel_A,
        area_A=experiment.area_A,
        margin_A=margin_A,
        search_A=search,
    )


MONOLAYER = Beam(80.0, 25.0, 150.0, 48, 16.0)
NEAR_FOCUS = Beam(80.0, 25.0, 60.0, 48, 16.0)


def mos2(
    dose: float,
    beam: Beam = MONOLAYER,
    shape: tuple[int, int] = (18, 18),
    step_A: float = 1.0,
    error_A: np.ndarray | float = 0.0,
    source: Iterable[tuple[float, float, float, float]] = ((0.0, 0.0, 0.0, 1.0),),
) -> Experiment:
    """A MoS2 monolayer with vacancies and foreign atoms; ``dose`` in electrons/Å^2.

    ``error_A`` is where the beam was less where it was meant to be.
    """
    side = 2.25 * beam.field_A
    n = round(side * 2 * beam.n_pixels / beam.field_A)
    phase = atoms_phase(mos2_layer(side), side, n, beam.voltage_kV)
    nominal = scan_A(shape, step_A, (side - (shape[0] - 1) * step_A) / 2)
    positions = nominal + error_A
    patterns = diffract(beam, phase[None], side, positions, source=source)
    params = geometry(beam)
    params |= {
        "dataset": counted(patterns, dose * step_A**2, seed=1),
        "positions": nominal / params["pixel_size_x_A"],
        "scan_size": list(shape),
        "scan_step_A": step_A,
    }
    return Experiment(params, phase, side / n, positions, corners_A(positions))


def gaussian_source(size_A: float, focal_spread_A: float) -> list[tuple[float, float, float, float]]:
    """32 parts (dy, dx, defocus, weight) of a Gaussian source with these standard deviations."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    return [
        (size_A * y, size_A * x, sign * focal_spread_A, wy * wx / 2)
        for y, wy in zip(nodes, weights, strict=True)
        for x, wx in zip(nodes, weights, strict=True)
        for sign in (-1, 1)
    ]


def scan_errors(shape: tuple[int, int], step_A: float, seed: int = 3) -> np.ndarray:
    """(N, 2) Å: a scan turned by 4°, stretched by 6 % along y, bent by drift, and jittered by 0.12 Å."""
    grid = scan_A(shape, step_A, 0.0)
    grid = grid - grid.mean(axis=0)
    c, s = np.cos(np.deg2rad(4.0)), np.sin(np.deg2rad(4.0))
    turned = grid @ (np.array([[c, -s], [s, c]]) * (1.06, 1.0)).T
    drift = 0.25 * np.outer(np.linspace(-1, 1, len(grid)) ** 2, (1.0, -0.6))
    return turned - grid + drift + 0.12 * np.random.default_rng(seed).normal(size=grid.shape)


def strontium_titanate(n_cells: int = 24, dose: float = 1e6) -> Experiment:
    """SrTiO3 [001], 94 Å thick, with La in some Sr columns; 300 kV, slices of half a cell."""
    cell = 3.905
    beam = Beam(300.0, 25.0, -150.0, 48, 4 * cell)
    side, n = 2 * beam.field_A, 4 * beam.n_pixels
    rng = np.random.default_rng(1)
    sro = lattice((cell, cell), [(0, 0, 38), (0.5, 0.5, 8)], side)
    tio2 = lattice((cell, cell), [(0.5, 0.5, 22), (0.5, 0, 8), (0, 0.5, 8)], side)
    strontium = np.flatnonzero(sro[:, 2] == 38)
    rich = rng.uniform(size=len(strontium)) < 0.4
    layers = []
    for _ in range(n_cells):
        doped = sro.copy()
        doped[strontium[rich & (rng.uniform(size=len(strontium)) < 0.35)], 2] = 57
        layers += [atoms_phase(atoms, side, n, beam.voltage_kV) for atoms in (doped, tio2)]
    step, shape = 0.8, (12, 12)
    positions = scan_A(shape, step, (side - (shape[0] - 1) * step) / 2)
    phases = np.array(layers)
    patterns = diffract(beam, phases, side, positions, slice_A=cell / 2)
    params = geometry(beam)
    params |= {
        "dataset": counted(patterns, dose * step**2, seed=1),
        "positions": positions / params["pixel_size_x_A"],
        "scan_size": list(shape),
    }
    return Experiment(params, phases.sum(axis=0), side / n, positions, corners_A(positions))


def segments(n_pixels: int, radii_px: Sequence[float], sectors: int) -> np.ndarray:
    """(rings x sectors, n, n) masks of a segmented detector."""
    y, x = np.mgrid[:n_pixels, :n_pixels] - n_pixels // 2
    radius, angle = np.hypot(y, x), (np.arctan2(y, x) + 0.3) % (2 * np.pi)
    sector = np.floor(angle / (2 * np.pi / sectors)).astype(int)
    rings = zip(radii_px[:-1], radii_px[1:], strict=True)
    return np.array(
        [
            (radius >= low) & (radius < high) & (sector == s)
            for low, high in list(rings)
            for s in range(sectors)
        ],
        float,
    )


def near_focus(dose: float) -> Experiment:
    """MoS2 on a dense scan near focus, full patterns: those of which :func:`segmented` has the sums."""
    return mos2(dose, NEAR_FOCUS, (20, 20), 0.6)


def segmented(dose: float) -> Experiment:
    """MoS2 seen by 40 segments: five rings, two of them in the dark field, of eight sectors each."""
    beam, full = NEAR_FOCUS, near_focus(dose)
    disk = beam.semiangle_mrad * 1e-3 / beam.wavelength_A * beam.field_A
    masks = segments(beam.n_pixels, [0, disk / 3, 2 / 3 * disk, disk, 1.4 * disk, 2 * disk], 8)
    params = full.params | {
        "dataset": np.einsum("nyx,dyx->nd", full.params["dataset"], masks),
        "masks": masks,
        "aperture_mask": disk / (beam.n_pixels // 2 + full.params["data_pad"]),
        "n_threads": 1,  # the sums are a matrix product: few large ones suffer least from busy cores
        "compute_batch": 200,
    }
    return Experiment(params, full.phase, full.pixel_A, full.positions_A, full.area_A)


def binned_centre(images: np.ndarray, n_pixels: int) -> np.ndarray:
    """(..., n, n): pixels summed two by two, and the middle half of the field."""
    side = images.shape[-1] // 2
    binned = images.reshape(*images.shape[:-2], side, 2, side, 2).mean(axis=(-3, -1))
    low = (side - n_pixels) // 2
    return binned[..., low : low + n_pixels, low : low + n_pixels]


def focal_series(counts: float = 200.0) -> Experiment:
    """Nanoparticles at 300 kV in five images of 64 x 64 pixels of 2 Å, cut out of a larger field."""
    n, pixel, voltage, alpha = 64, 2.0, 300.0, 3e-5
    defocus = np.array([-20e3, -8e3, 3e3, 12e3, 25e3])
    phase = particles_phase(2 * n * pixel, 4 * n, voltage, 48, (8.0, 22.0), seed=2)
    wave = np.exp(1j * phase)
    images = np.array([image(wave, pixel / 2, wavelength_A(voltage), z, alpha) for z in defocus])
    corner = np.array([[n // 2 * pixel] * 2])
    params = {
        "acc_voltage": voltage,
        "dataset": counted(binned_centre(images, n), counts, seed=2),
        "defocus_array": defocus,
        "alpha_near_field": alpha,
        **shared(pixel),
    }
    area = np.concatenate([corner, corner + n * pixel])
    return Experiment(params, phase, pixel / 2, corner, area, images=True)


def holograms(counts: float = 300.0, defocus_A: float = 60e3) -> Experiment:
    """Nanoparticles moved to 36 places in a structured beam, 300 kV; images of 48 x 48 pixels of 4 Å."""
    n, pixel, voltage, alpha = 48, 4.0, 300.0, 2e-5
    fine, field, shape = pixel / 2, 4 * n, (6, 6)
    rng = np.random.default_rng(2)
    crop_origins = scan_A(shape, 24.0, 0.0) + rng.uniform(-4, 4, (shape[0] * shape[1], 2))
    crop_origins = (crop_origins - crop_origins.min(axis=0)).round() // fine * fine
    side = field + int(crop_origins.max() / fine)
    phase = particles_phase(side * fine, side, voltage, 50, (12.0, 40.0), seed=2)
    smooth = [gaussian_filter(rng.normal(size=(field, field)), s / fine, mode="wrap") for s in (30, 25)]
    amplitude, turn = (noise / noise.std() for noise in smooth)
    beam = (1 + 0.1 * amplitude) * np.exp(0.7j * turn)
    windows = np.array([phase[y : y + field, x : x + field] for y, x in (crop_origins / fine).astype(int)])
    images = image(beam * np.exp(1j * windows), fine, wavelength_A(voltage), defocus_A, alpha)
    params = {
        "acc_voltage": voltage,
        "dataset": counted(binned_centre(images, n), counts, seed=2),
        "positions": crop_origins / pixel,
        "defocus_array": [defocus_A],
        "alpha_near_field": alpha,
        **shared(pixel),
    }
    places = crop_origins + n // 2 * pixel
    area = np.stack([places.min(axis=0), places.max(axis=0) + n * pixel])
    return Experiment(params, phase, fine, places, area, images=True)

"""The numbers behind the checks: scan and starting probe; those of the bright-field disk are in data/disk.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull

from pypty.backend.array import to_host
from pypty.data.disk import DiskFacts, disk_facts
from pypty.data.scan import fit_raster, missing_problem, points_of_patterns
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.detector import measured_disk, semiangle_rad
from pypty.model.blocks import Variables
from pypty.optics.probes import spectrum_of_probe
from pypty.preflight.sample import PatternSample

PROBE_SHARE = 0.9
"""Fraction of the probe's intensity within its diameter, as in arXiv 2311.15181."""
_RIM = 1 / 16
"""Width of the window's rim, as a fraction of the window."""


@dataclass(frozen=True)
class ProbeFacts:
    """The starting probe in real space, all modes together.

    Attributes
    ----------
    intensity : (y, x), sum 1
    centre_px : [y, x]
    diameter_A : diameter of the circle that contains 90 % of the intensity
    share : that diameter as a fraction of the window's shorter side
    rim : fraction of the intensity in the outermost 1/16 of the window on each side
    """

    intensity: np.ndarray
    centre_px: tuple[float, float]
    diameter_A: float
    share: float
    rim: float


@dataclass(frozen=True, kw_only=True)
class ScanFacts:
    """Numbers of the scan.

    Attributes
    ----------
    positions_A : (N, 2) [y, x] centres of the patches
    area_A2 : specimen area per scan point; 0 for a line
    step_A : square root of the area; for a line the distance between points
    extent_A : (y, x) between the outermost points
    misfit : rms distance from the best affine raster in steps; None without scan_size
    rotation_deg : direction of the fast axis in the frame of the detector; None without scan_size
    """

    positions_A: np.ndarray
    area_A2: float
    step_A: float
    extent_A: tuple[float, float]
    misfit: float | None
    rotation_deg: float | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All numbers that the checks use.

    Attributes
    ----------
    pixel_1A : (ky, kx) detector pixel of the model, 1/Å
    alpha : convergence semi-angle, rad: as given, else from the disk; None without a disk
    n_slices, gap_A : number of slices of the start, and the largest distance between them
    """

    setup: Setup
    variables: Variables
    sample: PatternSample
    pixel_1A: tuple[float, float]
    probe: ProbeFacts | None
    disk: DiskFacts | None
    scan: ScanFacts | None
    alpha: float | None
    n_slices: int
    gap_A: float

    @property
    def wavelength(self) -> float:
        """Å."""
        return self.setup.grid.wavelength

    @property
    def thin_A(self) -> float | None:
        """Largest thickness in Å of a specimen that one slice can describe, 5.2 d²/lambda with
        d = 0.61 lambda/(2 alpha); the angle is twice that of the aperture (Tsai et al., Optics Express 24 (2016)
        29089)."""
        if self.alpha is None:
            return None
        return 5.2 * (0.61 * self.wavelength / (2 * self.alpha)) ** 2 / self.wavelength


def gather(setup: Setup, sample: PatternSample) -> Facts:
    """Compute the numbers; ``sample`` holds statistics of some patterns."""
    settings, grid = setup.settings, setup.grid
    variables = setup.variables()
    probe = disk = None
    window = setup.window
    if not setup.near_field:
        modes = to_host(variables.probe)
        modes = modes.reshape(-1, *modes.shape[-2:])
        probe = probe_facts((np.abs(modes) ** 2).sum(axis=0), grid.pixel_size_A)
        if settings["masks"] is None and setup.survey is not None:
            disk = measured_disk(setup)
        else:
            # No mean pattern: use the disk of the starting probe, cropped to the measured pattern.
            spectrum = (np.abs(spectrum_of_probe(modes)) ** 2).sum(axis=0)
            cut = tuple(slice(window.pad, n - window.pad) for n in spectrum.shape)
            disk = disk_facts(spectrum[cut], window.model_pixel_1A)
    return Facts(
        setup=setup,
        variables=variables,
        sample=sample,
        pixel_1A=window.pixel_1A,
        probe=probe,
        disk=disk,
        scan=scan_facts(setup),
        alpha=semiangle_rad(setup, disk),
        n_slices=variables.n_slices,
        gap_A=float(to_host(variables.slice_distances).max()),
    )


def probe_facts(intensity: np.ndarray, pixel_size_A: tuple[float, float]) -> ProbeFacts:
    """Size of a probe (y, x) in its periodic window; distances wrap around the edges."""
    shape = intensity.shape
    total = max(float(intensity.sum()), np.finfo(float).tiny)
    intensity = intensity / total
    centre, distance2 = [], []
    for axis, n in enumerate(shape):
        profile = intensity.sum(axis=1 - axis)
        # Circular mean: an arithmetic mean of pixel indices would be wrong for a probe that wraps around.
        angle = np.angle((profile * np.exp(2j * np.pi * np.arange(n) / n)).sum())
        middle = (n * angle / (2 * np.pi)) % n
        away = (np.arange(n) - middle + n / 2) % n - n / 2
        centre.append(float(middle))
        distance2.append((away * pixel_size_A[axis]) ** 2)
    r2 = np.add.outer(*distance2).ravel()
    order = np.argsort(r2)
    held = np.cumsum(intensity.ravel()[order])  # intensity within each distance
    diameter = 2 * math.sqrt(r2[order][min(np.searchsorted(held, PROBE_SHARE), held.size - 1)])
    window = min(n * p for n, p in zip(shape, pixel_size_A, strict=True))
    rims = [max(1, round(n * _RIM)) for n in shape]
    middle_part = intensity[rims[0] : -rims[0], rims[1] : -rims[1]]
    rim = max(0.0, 1 - float(middle_part.sum()))
    return ProbeFacts(intensity, (centre[0], centre[1]), diameter, diameter / window, rim)


def scan_facts(setup: Setup) -> ScanFacts | None:
    """Numbers of the scan; None if there are fewer than two different positions (a focal series)."""
    pixel = np.array(setup.grid.pixel_size_A)
    points = (setup.scan.positions + np.array(setup.grid.shape) // 2) * pixel
    extent = np.ptp(points, axis=0)
    if len(points) < 2 or extent.max() < 1e-6 * pixel.max():
        return None
    step, area = _spacing(points)
    size, now = setup.settings["scan_size"], setup.settings
    raster = (
        None
        if size is None
        else raster_fit(
            points, (int(size[0]), int(size[1])), step, now["scan_order"], now["missing_patterns"]
        )
    )
    return ScanFacts(
        positions_A=points,
        area_A2=area,
        step_A=step,
        extent_A=(float(extent[0]), float(extent[1])),
        misfit=None if raster is None else raster.misfit,
        rotation_deg=None if raster is None else raster.rotation_deg,
    )


def _spacing(points: np.ndarray) -> tuple[float, float]:
    """Step and area per point of a scan of uniform density.

    The hull of a raster of a x b points has the area (a - 1)(b - 1) s² and the perimeter 2 (a + b - 2) s, so that
    (N - 1) s² - (perimeter/2) s - hull = 0. The area is 0 for points on a line.
    """
    centred = points - points.mean(axis=0)
    spread = np.linalg.svd(centred.T @ centred, compute_uv=False) ** 0.5
    if spread[1] < 1e-6 * spread[0]:  # a line: the hull has no area
        direction = np.linalg.svd(centred.T @ centred)[0][:, 0]
        return float(np.ptp(centred @ direction)) / (len(points) - 1), 0.0
    hull = ConvexHull(points)
    half, inside, n = hull.area / 2, hull.volume, len(points) - 1  # in 2-D "area" is the perimeter
    step = (half + math.sqrt(half**2 + 4 * n * inside)) / (2 * n)
    return step, step**2


@dataclass(frozen=True)
class RasterFit:
    """The best affine raster: rms misfit in steps, direction of its fast axis, and whether it is of the other hand."""

    misfit: float
    rotation_deg: float
    mirrored: bool


def raster_fit(
    points: np.ndarray, size: tuple[int, int], step: float, order: str, missing: np.ndarray | None
) -> RasterFit | None:
    """The raster of ``size`` that is nearest to points (N, 2) which are stored in this order; None if there is none."""
    if missing_problem(missing, size, len(points)) or min(size) < 2:
        return None
    rows, columns = np.divmod(points_of_patterns(order, size, missing), size[1])
    fit, misfit = fit_raster(points, rows, columns)
    slow, fast = fit[1], fit[2]
    return RasterFit(
        misfit / step,
        math.degrees(math.atan2(fast[0], fast[1])),
        bool(slow[0] * fast[1] - slow[1] * fast[0] < 0),
    )

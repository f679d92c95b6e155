"""The edge of the bright-field disk in a mean pattern, to a fraction of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter
from scipy.optimize import least_squares
from scipy.special import erfc

from pypty.errors import DataError

INTEGRATED = "integrated"
SAMPLED = "sampled"
_BAND_PX = 4.0
_LARGEST_HARMONIC = 8
_SMALLEST_BLUR = 12**-0.5
"""Standard deviation of a box of one pixel: the narrowest edge that a detector can show."""
_RIDGE = 1e-6
_STARTS = (0.985, 1.0, 1.015)
_SMALLEST_CONTRAST = 2.0


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A disk with a soft edge.

    Attributes
    ----------
    radius_px : where the edge is half as high (of the amplitude, if ``kind`` is "sampled")
    centre : [y, x] in pixels
    width_px : standard deviation of the edge; of a sampled one the length of its ramp
    ellipse : (cos, sin) second harmonic of the radius, relative
    kind : "integrated" by detector pixels, or "sampled" from a computed wave
    height : of the disk over its surroundings, in units of the pattern
    residual : root mean square misfit near the edge over the height
    """

    radius_px: float
    centre: tuple[float, float]
    width_px: float
    ellipse: tuple[float, float]
    kind: str
    height: float
    residual: float

    @property
    def ellipticity(self) -> float:
        """Largest over smallest radius, minus 1."""
        e = float(np.hypot(*self.ellipse))
        return (1 + e) / (1 - e) - 1

    @property
    def ellipse_angle_deg(self) -> float:
        """Direction of the longest radius from the kx axis towards the ky axis, in (-90, 90]."""
        return float(np.degrees(np.arctan2(self.ellipse[1], self.ellipse[0])) / 2)


def profile(distance: np.ndarray, width: float, kind: str) -> np.ndarray:
    """1 inside, 0 outside, at this distance (px, positive outside) from the edge.

    A detector adds intensities over its pixels: an error function. Simulated patterns are often samples of a
    wave whose aperture ends in a linear ramp of the amplitude, less than a pixel long: the square of that
    ramp.
    """
    if kind == INTEGRATED:
        return 0.5 * erfc(distance / (np.sqrt(2) * width))
    return np.clip(0.5 - distance / width, 0, 1) ** 2


def find_disk(pattern: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Radius (px) and centre [y, x] to about a pixel: the area above half the height, and its centroid.

    Raises
    ------
    DataError
        Nothing stands out of its surroundings.
    """
    smooth = median_filter(np.where(weights > 0, pattern, np.nan_to_num(pattern[weights > 0].mean())), 3)
    # The disk may be a small part of the detector: the level is that of the brightest pixels, twice refined.
    level = 0.5 * float(np.sort(smooth.ravel())[-max(5, smooth.size // 500) :].mean())
    for _ in range(2):
        inside = smooth > level
        if not 0 < inside.sum() < inside.size:
            raise DataError("no bright-field disk was found: all pixels of the mean pattern are alike")
        level = 0.5 * float(np.median(smooth[inside]))
    inside = smooth > level
    outside = float(np.median(smooth[~inside])) if (~inside).any() else np.inf
    if not 2 * level > _SMALLEST_CONTRAST * outside:
        raise DataError(
            f"no bright-field disk was found: the mean pattern has {2 * level:.3g} counts where it is bright and "
            f"{outside:.3g} elsewhere; is the detector smaller than the disk, or recon_type near_field?"
        )
    centre = np.argwhere(inside).mean(axis=0)
    return float(np.sqrt(inside.sum() / np.pi)), centre


def fit_edge(pattern: np.ndarray, weights: np.ndarray | None = None) -> Edge:
    """Least-squares fit of a disk's edge.

    Only a band of a few pixels around the edge counts. In it the pattern is s(r) a + b + c r s(r) + d r (1 -
    s(r)), s the profile of the edge and a ... d functions of the direction (harmonics up to the eighth), so
    that structure of the specimen inside and outside the disk may have any height: only what steps at the
    same radius in all directions pulls. The coefficients are linear and eliminated (variable projection,
    Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413); radius, width, centre and ellipse are searched.

    Parameters
    ----------
    pattern : (ky, kx) mean counts
    weights : (ky, kx), pixels with 0 do not count; None = all count

    Raises
    ------
    DataError
        There is no disk, or it is cut by the rim of the detector.
    """
    pattern = np.asarray(pattern, float)
    use = np.ones(pattern.shape) if weights is None else np.asarray(weights, float)
    radius, centre = find_disk(pattern, use)
    room = min(*centre, *(np.array(pattern.shape) - 1 - centre))
    if radius < 2 or radius + 2 > room:
        raise DataError(
            f"the bright-field disk has a radius of about {radius:.1f} px around [{centre[0]:.1f}, {centre[1]:.1f}] on "
            f"a detector of {pattern.shape} px; it must be larger than 2 px and end 2 px from the rim to be measured"
        )
    fits = []
    for kind, low, high in ((INTEGRATED, _SMALLEST_BLUR, radius / 2), (SAMPLED, 0.05, 1.0)):
        fits.append(_fit(pattern, use, radius=radius, centre=centre, kind=kind, widths=(low, high)))
    return min(fits, key=lambda fit: fit.residual)


def _fit(
    pattern: np.ndarray,
    weights: np.ndarray,
    *,
    radius: float,
    centre: np.ndarray,
    kind: str,
    widths: tuple[float, float],
) -> Edge:
    grid = np.indices(pattern.shape)
    y, x = grid[0], grid[1]
    band = np.abs(np.hypot(y - centre[0], x - centre[1]) - radius) < min(_BAND_PX, 0.6 * radius)
    band &= weights > 0
    values = pattern[band]
    height = float(
        np.median(pattern[np.hypot(*(np.indices(pattern.shape) - centre[:, None, None])) < radius])
    )
    harmonics = int(np.clip(len(values) // 40, 0, _LARGEST_HARMONIC))
    # All lengths in units in which a step of 1 is natural: px for radius, width and centre, % for the ellipse.
    lower = [0.5 * radius, widths[0], *(centre - 3), -20, -20]
    upper = [1.5 * radius, widths[1], *(centre + 3), 20, 20]
    start_width = float(np.clip(0.5, *widths))

    def misfit(point: np.ndarray) -> np.ndarray:
        return _misfit(point, y=y[band], x=x[band], values=values / height, kind=kind, harmonics=harmonics)

    best = None
    for factor in _STARTS:
        start = [radius * factor, start_width, *centre, 0, 0]
        found = least_squares(
            misfit, start, bounds=(lower, upper), diff_step=1e-3, x_scale=[1, 0.2, 1, 1, 1, 1]
        )
        best = found if best is None or found.cost < best.cost else best
    assert best is not None
    r, width, cy, cx, ec, es = best.x
    if kind == INTEGRATED:  # a blur moves the half height of a convex edge inwards by width^2 / (2 radius)
        r += width**2 / (2 * r)
    return Edge(
        radius_px=float(r),
        centre=(float(cy), float(cx)),
        width_px=float(width),
        ellipse=(float(ec) / 100, float(es) / 100),
        kind=kind,
        height=height,
        residual=float(np.sqrt(2 * best.cost / len(values))),
    )


def _misfit(
    point: np.ndarray, *, y: np.ndarray, x: np.ndarray, values: np.ndarray, kind: str, harmonics: int
) -> np.ndarray:
    """Values minus their best description with these non-linear parameters."""
    radius, width, cy, cx, ec, es = point
    angle = np.arctan2(y - cy, x - cx)
    edge = radius * (1 + (ec * np.cos(2 * angle) + es * np.sin(2 * angle)) / 100)
    distance = np.hypot(y - cy, x - cx) - edge
    step = profile(distance, width, kind)
    parts = (step, np.ones_like(step), distance * step, distance * (1 - step))
    waves = [np.ones_like(angle)]
    for order in range(1, harmonics + 1):
        waves += [np.cos(order * angle), np.sin(order * angle)]
    columns = np.stack([part * wave for part in parts for wave in waves], axis=1)
    # A trace of a ridge keeps coefficients finite that the few pixels of a small disk do not determine.
    normal = columns.T @ columns + _RIDGE * np.eye(columns.shape[1])
    return columns @ np.linalg.solve(normal, columns.T @ values) - values

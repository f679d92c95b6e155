"""What the band limit of the model costs: counts beyond it cannot be modelled."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.detector import measured_disk, scattering
from pypty.params.checks.effects import has_block

COST, TOLD = 0.05, 0.12
"""Parts of the phase that may be lost: pre-flight warns above the first, check and run above the second. A detector
that is padded by a quarter of its side loses its corners, mostly less than the second."""
SHARE = 0.02
"""The same for all counts, where the scattered ones cannot be told from the others."""
_AIM = 0.03
"""Part of the phase that is still lost with the values that are advised."""
_MOST_PADDED = 2
"""Largest window that is advised, in units of the present one."""
_CUTS = tuple(round(0.05 * n, 2) for n in range(1, 21))


@dataclass(frozen=True)
class BandLimitCost:
    """Counts beyond the band limit.

    Attributes
    ----------
    share : fraction of all counts
    phase : fraction of the scattered counts, about that of the phase that cannot be reconstructed: the power of a phase
        image of a weak object is that of the scattered wave, and with it the deficit of the phase, and the square of
        its correlation with the truth; None where the dark field is not seen
    pad : smallest ``data_pad`` that keeps it below 3 %, for a window with a fast FFT; None if there is none
    cut : the same of ``damping_cutoff_multislice``
    through_disk : the limit lies within 1.1 radii of the bright-field disk
    """

    share: float
    phase: float | None
    pad: int | None = None
    cut: float | None = None
    through_disk: bool = False

    @property
    def matters(self) -> bool:
        """Whether pre-flight warns."""
        return self.share > SHARE or (self.phase is not None and self.phase > COST)


def band_limit_cost(setup: Setup) -> BandLimitCost | None:
    """What the band limit costs; None where nothing is known: near field, virtual detectors, no data, or a background,
    which is not band-limited."""
    settings, mean = setup.settings, setup.mean_pattern()
    unlimited = setup.near_field or settings["masks"] is not None
    if mean is None or unlimited or has_block(settings, "static_background", "update_static_background"):
        return None
    if mean.sum() <= 0:
        return None
    disk, shape, cutoff = measured_disk(setup), setup.grid.shape, settings["damping_cutoff_multislice"]
    beyond = _Beyond(mean, setup.window.model_pixel_1A)
    share = beyond(shape, cutoff) / float(mean.sum())
    through_disk = disk is not None and beyond.limit(shape, cutoff) < disk.rim_1A
    scattered = scattering(setup, _noise(setup))
    if disk is None or scattered is None or scattered.total <= 0:
        return BandLimitCost(share, None, through_disk=through_disk)

    def lost(shape: tuple[int, int], cutoff: float) -> float:
        """The part of the scattered counts: of those within the disk as many as of all counts there."""
        inside, outside = beyond.inside_and_outside(disk.rim_1A, beyond.limit(shape, cutoff))
        return min(1.0, (2 * scattered.bright * inside + outside) / scattered.total)

    cost = BandLimitCost(share, lost(shape, cutoff), through_disk=through_disk)
    if not cost.matters:
        return cost
    pad = next((pad for pad, padded in _paddings(setup) if lost(padded, cutoff) <= _AIM), None)
    # of several slices, waves beyond 2/3 of Nyquist would be folded back
    cuts = [cut for cut in _CUTS if cut > cutoff and settings["simu_Npix"] is None and _slices(setup) == 1]
    cut = next((cut for cut in cuts if lost(shape, cut) <= _AIM), None)
    return dataclasses.replace(cost, pad=pad, cut=cut)


def band_limit_advice(setup: Setup, cost: BandLimitCost) -> str:
    """Which values hold the counts."""
    settings, ways = setup.settings, []
    if cost.pad is not None:
        up, sizes = settings["upsample_pattern"], setup.grid.shape
        ny, nx = (up * n + 2 * cost.pad for n in setup.window.pattern)
        py, px = (p * n / m for p, n, m in zip(setup.grid.pixel_size_A, sizes, (ny, nx), strict=True))
        ways.append(
            f"data_pad = {cost.pad} (a window of {ny} x {nx} px, with pixel_size_y_A = {py:.4g}, pixel_size_x_A = "
            f"{px:.4g}, and positions in these pixels)"
        )
    if cost.cut is not None:
        ways.append(f"damping_cutoff_multislice = {cost.cut:g}")
    if not ways:
        ways.append("a larger data_pad or simu_Npix, which make the pixels finer")
    return f"set {', or '.join(ways)}"


def band_limit_warning(setup: Setup) -> str | None:
    """What check and run say about counts beyond the band limit; None if few are lost."""
    cost = band_limit_cost(setup)
    if cost is None or not (cost.share > SHARE or (cost.phase is not None and cost.phase > TOLD)):
        return None
    settings = setup.settings
    scattered = "" if cost.phase is None else f", {_percent(cost.phase)} of the scattered ones"
    if cost.through_disk:
        scattered += "; the bright-field disk itself is cut"
    elif cost.phase is not None:
        scattered += ", and cost about that part of the phase"
    return (
        f"{_percent(cost.share)} of the counts lie beyond the band limit and cannot be modelled{scattered}: data_pad "
        f"is {settings['data_pad']} px and damping_cutoff_multislice {settings['damping_cutoff_multislice']:g}; "
        f"{band_limit_advice(setup, cost)}"
    )


def _percent(part: float) -> str:
    """With two digits, also of 100 %."""
    return f"{100 * part:.0f} %" if part > 0.095 else f"{100 * part:.2g} %"


class _Beyond:
    """Counts beyond the band limit of a window: the mean pattern stays where it is, the limit moves."""

    def __init__(self, mean: np.ndarray, pixel_1A: tuple[float, float]) -> None:
        self._pixel = pixel_1A
        ky, kx = ((np.arange(n) - n // 2) * d for n, d in zip(mean.shape, pixel_1A, strict=True))
        radius = np.hypot(ky[:, None], kx[None, :]).ravel()
        order = np.argsort(radius)
        self._radius, self._held = radius[order], np.cumsum(mean.ravel()[order])

    def limit(self, shape: tuple[int, int], cutoff: float) -> float:
        """The band limit of a window with the same spectral pixels, 1/Å."""
        # Grid.largest_frequency
        return cutoff * min((n - 1) // 2 * d for n, d in zip(shape, self._pixel, strict=True))

    def __call__(self, shape: tuple[int, int], cutoff: float) -> float:
        return self._from(self.limit(shape, cutoff))

    def inside_and_outside(self, rim_1A: float, limit_1A: float) -> tuple[float, float]:
        """What lies beyond a limit: as a part of the counts within a radius, and the counts outside of it."""
        within = self._from(0.0) - self._from(rim_1A)
        cut = self._from(min(limit_1A, rim_1A)) - self._from(rim_1A)
        return (cut / within if within > 0 else 0.0), self._from(max(limit_1A, rim_1A))

    def _from(self, radius_1A: float) -> float:
        """Counts from a radius on."""
        inside = int(np.searchsorted(self._radius, radius_1A * (1 - 1e-9)))
        return float(self._held[-1] - (self._held[inside - 1] if inside else 0.0))


def _paddings(setup: Setup) -> list[tuple[int, tuple[int, int]]]:
    """Larger values of ``data_pad`` with a window whose sides have no prime factors above 5, and these windows."""
    settings = setup.settings
    if settings["simu_Npix"] is not None:
        return []
    up, now = int(settings["upsample_pattern"]), int(settings["data_pad"])
    largest = max(setup.grid.shape) * (_MOST_PADDED - 1) // 2 + now
    found = []
    for pad in range(now - now % up + up, largest + 1, up):
        ny, nx = (up * n + 2 * pad for n in setup.window.pattern)
        if _is_fast(ny) and _is_fast(nx):
            found.append((pad, (ny, nx)))
    return found


def _is_fast(n: int) -> bool:
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return n == 1


def _slices(setup: Setup) -> int:
    return setup.plan.sizes.slices


def _noise(setup: Setup) -> float:
    """Variance of the noise over the mean; 0 if unknown, which makes the cost smaller."""
    settings, surveyed = setup.settings, setup.survey
    if surveyed is not None and surveyed.electron is not None:
        return surveyed.electron
    measured = settings["algorithm"] == "poisson_gaussian" and math.isfinite(settings["detector_gain"])
    return settings["detector_gain"] if measured else 0.0

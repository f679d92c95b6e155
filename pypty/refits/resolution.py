"""Resolution of a reconstruction: Fourier ring correlation of two reconstructions from halves of the counts.

FRC(q) = Re sum F1 F2* / sqrt(sum |F1|^2 sum |F2|^2) over the ring of spatial frequency q (van Heel and Schatz, J.
Struct. Biol. 151 (2005) 250, who also give the half-bit curve). With F = FRC of the halves, an image of all counts has
FRC_full = 2 F/(1 + F) with another one of the same dose, and C_ref = sqrt(FRC_full) with the truth (Rosenthal and
Henderson, J. Mol. Biol. 333 (2003) 721), as far as noise is all that differs: an error that both halves share, such as
a wrong calibration, is invisible to it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal.windows import tukey

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.comparison import count_model
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.reported import reported
from pypty.engine.setup.sequences import patterns_of_epoch
from pypty.errors import ParameterError
from pypty.model.blocks import Variables, to_public
from pypty.objective.deviance import CountModel
from pypty.params.schedule import Constant
from pypty.refits.gauge import Area, difference, flattened
from pypty.refits.refit import completed, scaled_to, thinned
from pypty.refits.reopen import Finished, at_the_start
from pypty.refits.words import AUTO, SCAN, THINNING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED = "errors that both halves share, as of calibration, are invisible to it"
_WINDOW = 0.5
"""Part of a side over which the edges of an image are faded out (both ends together), so that they have no spectrum."""
_FIRST_RING = 2
"""The innermost rings hold what the removal of ramps has left: no crossing is looked for there."""
_FEWEST_RINGS = 3
"""Rings beyond these without which nothing is told."""
_SEVENTH = 1 / 7


@dataclass(frozen=True, kw_only=True)
class RingCorrelation:
    """Agreement of two images by spatial frequency.

    Attributes
    ----------
    frequency_1A : (k,) centre of each ring, 1/Å; rings that lie inside the band limit of the object
    frc : (k,) Fourier ring correlation of the halves
    half_bit : (k,) value at which a ring of as many independent points carries half a bit per point; high for the small
        rings of a small field, so that it asks for more there
    limit_1A : band limit of the object, 1/Å
    """

    frequency_1A: np.ndarray
    frc: np.ndarray
    half_bit: np.ndarray
    limit_1A: float

    @property
    def c_ref(self) -> np.ndarray:
        """(k,) expected correlation of the image of all counts with the truth, sqrt(2F/(1 + F)), if only noise
        differs."""
        f = np.clip(self.frc, 0, 1)
        return np.sqrt(2 * f / (1 + f))

    @property
    def half_bit_A(self) -> float:
        """Å at which the correlation falls below the half-bit curve; inf if nothing crosses before the band limit,
        NaN if nothing is resolved or the field is too small."""
        return self._resolution(self.half_bit)

    @property
    def seventh_A(self) -> float:
        """Å at which the correlation falls below 1/7, where C_ref is 1/2."""
        return self._resolution(np.full(len(self.frc), _SEVENTH))

    def _resolution(self, threshold: np.ndarray) -> float:
        seen = self.frc[_FIRST_RING:] < threshold[_FIRST_RING:]
        if len(seen) < _FEWEST_RINGS or seen[0]:
            return math.nan
        if not seen.any():
            return math.inf
        last = int(seen.argmax()) + _FIRST_RING
        # linear between two rings
        before, after = (self.frc[i] - threshold[i] for i in (last - 1, last))
        share = before / (before - after)
        q = self.frequency_1A[last - 1] + share * (self.frequency_1A[last] - self.frequency_1A[last - 1])
        return 1 / float(q)

    @property
    def text(self) -> str:
        """In words; never a number beyond the band limit."""
        named = (("half-bit", self.half_bit_A), ("1/7", self.seventh_A))
        if len(self.frc) - _FIRST_RING < _FEWEST_RINGS:
            return "the scanned field is too small to tell"
        limit = f"≤ {1 / self.limit_1A:.3g} Å (the band limit)"
        words = []
        for name, value in named:
            found = (
                limit
                if math.isinf(value)
                else "nothing is resolved"
                if math.isnan(value)
                else f"{value:.3g} Å"
            )
            words.append(f"{name} {found}")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Result of :func:`resolution`.

    Attributes
    ----------
    total : of the phase summed over slices
    slices : of the phase of each slice, the first in the beam first
    halves : "thinning" (random halves of the counts) or "scan" (every other position)
    images : (2, y, x, z) phases of the halves inside the scanned area, aligned
    notes : what weakens the statement
    pixel_size_A : (2,) [y, x]
    seconds : time it took
    """

    total: RingCorrelation
    slices: tuple[RingCorrelation, ...]
    halves: str
    images: np.ndarray = field(repr=False)
    pixel_size_A: np.ndarray
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The numbers in words."""
        how = "random halves of the counts" if self.halves == THINNING else "every other scan position"
        parts = "; ".join((self.total.text, SHARED, *self.notes))
        return f"resolution of the phase (Fourier ring correlation, {how}): {parts}"

    def __str__(self) -> str:
        return self.text

    def plot(self) -> Figure:
        """The curves, and the two images."""
        from pypty.plots.refits import plot_resolution

        curves = {"sum of slices" if len(self.slices) > 1 else "phase": self.total}
        if len(self.slices) > 1:
            curves |= {f"slice {number}": curve for number, curve in enumerate(self.slices)}
        return plot_resolution(curves, self.images.sum(axis=3), self.pixel_size_A)


@reported()
def resolution(finished_run: Finished, *, halves: str = AUTO, seed: int = 0, **changes: Any) -> Resolution:
    """Resolution from two reconstructions, each from the start and with one half of the counts.

    Parameters
    ----------
    finished_run : parameters of a run, its output folder, or its result
    halves : "thinning" (every count goes to one of the halves at random: overlap and sampling stay), "scan" (every
        other position, for data that are no counts), or "auto"
    seed : of the division
    changes : parameters that replace those of the run, such as data_path

    Raises
    ------
    ParameterError
        A value is not possible, the run continues another one, or the parameters have problems.
    DataError
        "thinning", and the data are no whole counts.
    """
    if halves not in (AUTO, THINNING, SCAN):
        raise ParameterError(f"halves: given {halves!r}, expected {AUTO!r}, {THINNING!r} or {SCAN!r}")
    started = time.perf_counter()
    params = {**at_the_start(finished_run), **changes}
    if int(params.get("epoch_prev") or 0) > 0:
        raise ParameterError(
            f"epoch_prev: given {params['epoch_prev']}: the run continues a reconstruction of all counts, so that its "
            "halves would not be independent; give the parameters of the first run"
        )
    setup = prepare(params)
    try:
        if halves == AUTO:
            halves = THINNING if _are_counts(setup) else SCAN
        runs = [completed(*_half(setup, halves, seed, rest)) for rest in (False, True)]
        return _compare(runs, halves, started, _notes(setup))
    finally:
        setup.close()


def _notes(setup: Setup) -> tuple[str, ...]:
    """What both halves begin with."""
    obj = setup.settings["obj"]
    if obj is None or bool((obj == obj.flat[0]).all()):
        return ()
    return ("both halves begin with the given obj: if it comes from these data, they are not independent",)


def _are_counts(setup: Setup) -> bool:
    """Whether the data are whole numbers of counts, and no read-out noise is named."""
    survey = setup.survey
    if survey is None or survey.electron is None or setup.settings["data_multiplier"] != 1:
        return False  # values that are no electrons before their multiplier cannot be divided one by one
    return count_model(setup) in (CountModel(), CountModel(survey.electron))


def _half(setup: Setup, halves: str, seed: int, rest: bool) -> tuple[Setup, Variables]:
    """The setup of one half, and the unknowns with which it begins."""
    settings = setup.settings
    if halves == THINNING:
        half = thinned(setup, seed, rest)
        variables = half.variables()
        if settings["skip_preprocessing"]:  # a probe that is not scaled to the counts
            variables = scaled_to(0.5)(variables)
        return half, variables
    used, _ = patterns_of_epoch(settings, settings.first(), setup.n_patterns)
    size = settings["scan_size"]
    # a checkerboard of the raster, or every other pattern
    parity = used % 2
    if size is not None and int(size[0]) * int(size[1]) == setup.n_patterns:
        row, column = np.divmod(used, int(size[1]))
        parity = (row + column) % 2
    chosen = used[parity == int(rest)]
    settings = settings.replaced(indices_mode="full").with_schedules({"sequence": Constant(chosen)})
    return dataclasses.replace(setup, settings=settings), setup.variables()


def _compare(runs: list[Reconstruction], halves: str, started: float, notes: tuple[str, ...]) -> Resolution:
    first, second = (to_public("obj", run.state.variables.obj) for run in runs)
    setup, variables = runs[0].setup, runs[0].state.variables
    pixel_A = np.asarray(setup.grid.pixel_size_A)
    area = Area.scanned(to_public("positions", variables.positions), setup.grid.shape, first.shape)
    # phase factors: phases jump where they pass pi, and the same jumps in both halves would correlate
    one = flattened(first, area)
    two = one * np.exp(1j * difference(second, first, area=area))
    limit_1A = _band_limit_1A(setup)
    return Resolution(
        total=ring_correlation(one.prod(axis=2), two.prod(axis=2), pixel_A, limit_1A),
        slices=tuple(
            ring_correlation(one[..., z], two[..., z], pixel_A, limit_1A) for z in range(one.shape[2])
        ),
        halves=halves,
        images=np.angle(np.stack([one, two])),
        pixel_size_A=pixel_A,
        seconds=time.perf_counter() - started,
        notes=notes,
    )


def _band_limit_1A(setup: Setup) -> float:
    """The largest spatial frequency of the object, 1/Å."""
    settings = setup.settings
    cutoff = settings["damping_cutoff_multislice"] - settings["update_extra_cut"]
    return float(min(cutoff, 1.0) * 0.5 / max(setup.grid.pixel_size_A))


def ring_correlation(
    one: np.ndarray, two: np.ndarray, pixel_size_A: np.ndarray, limit_1A: float
) -> RingCorrelation:
    """Fourier ring correlation of two images (y, x): real, or phase factors, which for weak phases is the same.

    Parameters
    ----------
    pixel_size_A : (2,) [y, x]
    limit_1A : frequencies above this are left out
    """
    window = np.outer(*(tukey(n, _WINDOW) for n in one.shape))
    spectra = [np.fft.fft2(window * (image - image.mean())) for image in (one, two)]
    frequencies = [np.fft.fftfreq(n, pixel) for n, pixel in zip(one.shape, pixel_size_A, strict=True)]
    radius = np.hypot(frequencies[0][:, None], frequencies[1][None, :])
    # rings as wide as the coarser spacing of the frequencies
    width = max(1 / (n * pixel) for n, pixel in zip(one.shape, pixel_size_A, strict=True))
    ring = np.rint(radius / width).astype(int).ravel()
    # whole rings inside the limit: (k + 1/2) width <= limit
    wanted = int(min(limit_1A, 0.5 / max(pixel_size_A)) / width - 0.5) + 1
    cross = np.bincount(ring, (spectra[0] * spectra[1].conj()).real.ravel())[:wanted]
    powers = [np.bincount(ring, (np.abs(spectrum) ** 2).ravel())[:wanted] for spectrum in spectra]
    # half of the points are independent, as phases are real
    points = np.maximum(np.bincount(ring)[:wanted] / 2, 1)
    return RingCorrelation(
        frequency_1A=width * np.arange(wanted),
        frc=cross / np.sqrt(np.maximum(powers[0] * powers[1], np.finfo(float).tiny)),
        half_bit=(0.2071 + 1.9102 / np.sqrt(points)) / (1.2071 + 0.9102 / np.sqrt(points)),
        limit_1A=limit_1A,
    )

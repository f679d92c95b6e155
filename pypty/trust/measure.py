"""One pass over the patterns of a reconstruction that measures the quality of its fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from pypty.backend.array import to_host
from pypty.data.disk import disk_facts
from pypty.data.survey import are_whole
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.comparison import count_model, usable_pixels
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.sequences import patterns_of_epoch, used_at_any_epoch
from pypty.model.blocks import Variables
from pypty.objective.fit import FitSums, fit_sums
from pypty.objective.objective import Objective
from pypty.params.schema.values import EpochValues
from pypty.trust.quality import BRIGHT, DARK, EDGE, FitQuality, RegionFit

_INSIDE, _OUTSIDE = 0.95, 1.1
"""Radii between which the edge of the bright field lies, in units of the radius of the disk."""
_SMALLEST_RADIUS = 2.0
"""Radius of a disk in pixels below which its edge is not told from its inside."""
_NEAR = 1.5
"""Distance in scan steps up to which positions are neighbours: neighbours across the diagonal are, too."""
_SAMPLE = 64
"""Patterns that tell whether data are whole numbers."""
_LIT = 0.05
"""Illumination of an object pixel, in units of the mean over the brightest half, above which its value is fitted."""
_NUMBERS: Mapping[str, int] = MappingProxyType({"obj": 2, "probe": 2})


def measure(run: Reconstruction) -> FitQuality:
    """Compare all fitted patterns with the model as it stands now; the state of the run does not change.

    Raises
    ------
    MemoryError (on a GPU: CuPy's)
        The pass does not fit into memory.
    """
    sums, now, objective = sums_of(run)
    return _quality(run, sums, now, objective)


def sums_of(run: Reconstruction) -> tuple[FitSums, EpochValues, Objective]:
    """The sums over all fitted patterns, the values of the last epoch, and the objective whose model it was."""
    setup, variables = run.setup, run.state.variables
    now = last_values(run)
    indices, _ = patterns_of_epoch(run.settings, now, run.feed.n_patterns)
    objective = run.objective_for(refined_blocks(now, variables), now["propmethod"])
    usable = usable_pixels(setup, objective.model.reachable)
    sums = fit_sums(objective, variables, indices, counts=count_model(setup), usable=usable)
    return sums, now, objective


def last_values(run: Reconstruction) -> EpochValues:
    """The values of the last epoch that was done, by this run or by that which it continues; else of the first one."""
    return run.settings.at(max(run.state.epoch - 1, 0))


def reopened(params: Mapping[str, Any]) -> Reconstruction:
    """A run as it stands where the one that parameters continue has ended, of which nothing is recorded; its setup must
    be closed.

    Raises
    ------
    ParameterError
        The parameters or the data have problems; the message lists all.
    """
    done = params.get("epoch_prev", 0)
    if isinstance(done, (int, np.integer)) and done > 1:
        # what depends on the epoch is that of the last one; what params.yaml has of a function ends there
        setup = prepare({**params, "epoch_prev": int(done) - 1})
        epoch = int(done)
    else:
        setup = prepare(params)
        epoch = setup.settings.first_epoch
    return Reconstruction(setup, State(variables=setup.variables(), epoch=epoch))


def _quality(run: Reconstruction, sums: FitSums, now: EpochValues, objective: Objective) -> FitQuality:
    setup, variables = run.setup, run.state.variables
    maps = _Maps(setup, sums)
    positions = to_host(variables.positions)
    positions_A = (positions if len(positions) > 1 else np.repeat(positions, run.feed.n_patterns, axis=0))[
        sums.indices
    ] * np.asarray(setup.grid.pixel_size_A)
    unknowns = _unknowns(run, now)
    expected, variance = sums.of_pattern[:, 1], sums.of_pattern[:, 2]
    pix, pix_error = _neighbouring_pixels(setup, maps)
    scan, scan_error = _neighbouring_positions(sums, positions_A)
    with np.errstate(divide="ignore", invalid="ignore"):
        return FitQuality(
            counts=_are_counts(run, sums.indices),
            ratio=_ratio(sums.deviance.sum(), sums.expected.sum()),
            ratio_error=_ratio(math.sqrt(sums.variance.sum()), sums.expected.sum()),
            ratio_fitted=max(0.0, 1 - _ratio(unknowns, sums.expected.sum())),
            free=_ratio(sums.free_of_pattern[:, 0].sum(), sums.free_of_pattern[:, 1].sum()),
            free_error=_ratio(math.sqrt(sums.free_of_pattern[:, 2].sum()), sums.free_of_pattern[:, 1].sum()),
            unknowns=unknowns,
            regions=_regions(setup, maps),
            counts_per_pixel=_ratio(sums.counts.sum(), sums.pixels.sum()),
            beyond=_beyond(setup, objective),
            indices=sums.indices,
            positions_A=positions_A,
            pattern_ratio=sums.of_pattern[:, 0] / expected,
            pattern_error=np.sqrt(variance) / expected,
            pix=pix,
            pix_error=pix_error,
            scan=scan,
            scan_error=scan_error,
            detector_ratio=maps["deviance"] / maps["expected"],
            detector_residual=(maps["counts"] - maps["modelled"]) / np.sqrt(maps["modelled"]),
            detector_error=np.sqrt(maps["variance"]) / maps["expected"],
            detector_expected=maps["expected"],
        )


def _ratio(value: float, of: float) -> float:
    return float(value / of) if of > 0 else math.nan


class _Maps:
    """The sums of every pixel, zero frequency at n//2; (1, D) for virtual detectors."""

    def __init__(self, setup: Setup, sums: FitSums) -> None:
        self._setup, self._sums = setup, sums

    def __getitem__(self, name: str) -> np.ndarray:
        ordered = self._setup.from_model(getattr(self._sums, name)[None])
        return ordered.reshape(self._setup.data_shape)


def _are_counts(run: Reconstruction, indices: np.ndarray) -> bool:
    """Whether deviances have an expected value: data are whole numbers, as they are or times ``data_multiplier``, which
    makes them electrons; or their gain is a parameter."""
    settings = run.settings
    if settings["data_normalization"] is not None or not len(indices):
        return False
    if settings["algorithm"] == "poisson_gaussian" and settings["loss_terms"] is None:
        return True
    chosen = indices[np.unique(np.linspace(0, len(indices) - 1, _SAMPLE).astype(int))]
    patterns, factor = run.feed.patterns(chosen), run.setup.multiplier
    return are_whole(patterns) or are_whole(patterns, factor)


def _regions(setup: Setup, maps: _Maps) -> dict[str, RegionFit]:
    """The fit inside the bright-field disk, at its edge, and outside."""
    if setup.near_field or setup.settings["masks"] is not None:
        return {}
    used = maps["pixels"] > 0
    mean = np.divide(maps["counts"], maps["pixels"], out=np.zeros(used.shape), where=used)
    disk = disk_facts(mean, setup.window.pixel_1A)
    if disk is None or disk.radius_px < _SMALLEST_RADIUS:
        return {}
    ky, kx = (
        (np.arange(n) - centre) * pixel
        for n, centre, pixel in zip(used.shape, disk.centre_px, setup.window.pixel_1A, strict=True)
    )
    radius = np.hypot(ky[:, None], kx[None, :]) / disk.radius_1A
    parts = {
        BRIGHT: radius < _INSIDE,
        EDGE: (radius >= _INSIDE) & (radius < _OUTSIDE),
        DARK: radius >= _OUTSIDE,
    }
    counts, modelled = maps["counts"], maps["modelled"]
    # the square of the difference of the means, in units of its variance
    common = np.divide((counts - modelled) ** 2, modelled, out=np.zeros(used.shape), where=modelled > 0)
    found = {}
    for name, inside in parts.items():
        chosen = inside & used
        total = {
            key: float(maps[key][chosen].sum())
            for key in ("deviance", "expected", "variance", "counts", "modelled", "squares")
        }
        if total["expected"] > 0 and total["modelled"] > 0:
            found[name] = RegionFit(
                pixels=int(chosen.sum()),
                share=_ratio(total["counts"], float(counts.sum())),
                ratio=total["deviance"] / total["expected"],
                error=math.sqrt(total["variance"]) / total["expected"],
                counts_ratio=total["counts"] / total["modelled"],
                counts_error=1 / math.sqrt(total["modelled"]),
                static=_ratio(float(common[chosen].sum()), total["squares"]),
            )
    return found


def _beyond(setup: Setup, objective: Objective) -> float:
    """Share of the counts where the model can have none."""
    reachable = objective.model.reachable
    if reachable is None or setup.survey is None or setup.settings["masks"] is not None:
        return 0.0
    inside = setup.from_model(to_host(reachable).reshape(1, *setup.data_shape))[0]
    mean = setup.survey.mean
    rows, columns = ((m - n) // 2 for m, n in zip(setup.data_shape, mean.shape, strict=True))
    measured = inside[rows : rows + mean.shape[0], columns : columns + mean.shape[1]]
    return 1 - _ratio(mean[measured].sum(), mean.sum())


def _neighbouring_pixels(setup: Setup, maps: _Maps) -> tuple[float, float]:
    """Correlation of the residuals of neighbouring pixels, and its standard deviation for noise."""
    if setup.settings["masks"] is not None:
        return math.nan, math.nan
    squares, pixels = maps["squares"], maps["pixels"]
    mean = np.divide(squares, pixels, out=np.zeros(squares.shape), where=pixels > 0)
    products = norm = variance = 0.0
    for name, axis in (("right", 1), ("below", 0)):
        # the last pixel of a row has no neighbour: the sums go round
        inside = np.delete(np.arange(squares.shape[axis]), -1)
        first, second = (np.take(array, inside, axis) for array in (mean, pixels))
        next_mean, next_pixels = (np.take(array, inside + 1, axis) for array in (mean, pixels))
        number = np.minimum(second, next_pixels)  # patterns in which both are used
        products += float(np.take(maps[name], inside, axis)[number > 0].sum())
        variance += float((number * first * next_mean).sum())
        norm += math.sqrt(float((number * first).sum() * (number * next_mean).sum()))
    return _ratio(products, norm), _ratio(math.sqrt(variance), norm)


def _neighbouring_positions(sums: FitSums, positions_A: np.ndarray) -> tuple[float, float]:
    """Correlation of the residuals of consecutive patterns whose positions are neighbours, and its standard deviation
    for noise."""
    if len(positions_A) < 3:
        return math.nan, math.nan
    nearest = cKDTree(positions_A).query(positions_A, k=2)[0][:, 1]
    step = np.linalg.norm(np.diff(positions_A, axis=0), axis=1)
    consecutive = np.diff(sums.indices) == 1
    near = (
        (step <= _NEAR * np.median(nearest)) & (step > 0) & consecutive & np.isfinite(sums.with_previous[1:])
    )
    if not near.any():
        return math.nan, math.nan
    squares = sums.pattern_squares
    norm = math.sqrt(float(squares[1:][near].sum() * squares[:-1][near].sum()))
    used = float((sums.pixels.sum(axis=None)) / len(squares))
    variance = float((squares[1:] * squares[:-1])[near].sum()) / used
    return _ratio(float(sums.with_previous[1:][near].sum()), norm), _ratio(math.sqrt(variance), norm)


def _unknowns(run: Reconstruction, now: EpochValues) -> int:
    """Real numbers that are refined; of object and probe inside their band limits, of the object where it is lit."""
    setup, variables = run.setup, run.state.variables
    total = 0.0
    limits = setup.band_limits(variables)
    for name in refined_blocks(now, variables):
        block = variables.block(name)
        numbers = _NUMBERS.get(name, 1) * math.prod(block.shape)
        if name == "obj":
            numbers *= _lit_share(setup, variables)
            numbers /= 1 + bool(now["phase_only_obj"])
        mask = limits.obj if name == "obj" else limits.probe if name == "probe" else None
        total += numbers * (1.0 if mask is None else float(to_host(mask).mean()))
    return round(total)


def _lit_share(setup: Setup, variables: Variables) -> float:
    """Share of the object's pixels on which the probe has been."""
    probe = to_host(variables.probe)
    intensity = (np.abs(probe.reshape(-1, *probe.shape[-2:])) ** 2).sum(axis=0)
    lit = np.zeros(variables.obj.shape[-2:])
    used = used_at_any_epoch(setup.settings, setup.n_patterns)  # others may lie outside of the object
    for y, x in setup.scan.crop_origins[used]:
        lit[y : y + intensity.shape[0], x : x + intensity.shape[1]] += intensity
    bright = np.sort(lit, axis=None)[lit.size // 2 :].mean()
    return float((lit > _LIT * bright).mean())

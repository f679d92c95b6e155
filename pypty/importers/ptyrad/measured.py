"""The measured patterns of a PtyRAD file: left in their file if possible, otherwise processed in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import DataError, ParameterError
from pypty.importers.ptyrad import patterns as steps
from pypty.importers.ptyrad.data import Stored, open_array, unknown_entries
from pypty.importers.ptyrad.translation import Group, Ledger

_CHUNK_BYTES = 64 * 2**20
_KEY = "init_params."


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Properties of the patterns that other parts of the translation need.

    Attributes
    ----------
    raw_mean : (ky, kx) mean pattern after flips, before cropping
    scan_size : (slow, fast) after cropping
    n_raw, n_cropped, n_padded, n_pixels : side of a pattern as measured, after cropping, padding, resampling
    n_read : side of a pattern as the engine reads it, resampled but without virtual padding
    mean_total, largest_total : mean and largest sum of counts of a padded pattern
    """

    raw_mean: np.ndarray
    scan_size: tuple[int, int]
    n_raw: int
    n_cropped: int
    n_padded: int
    n_pixels: int
    n_read: int
    mean_total: float
    largest_total: float


def measured(init: Group, folder: Path, rng: np.random.RandomState, ledger: Ledger) -> Measured:
    """Open, measure and process the patterns; the parameters of the data go into the ledger.

    Parameters
    ----------
    folder : folder of the parameter file
    rng : random generator of Poisson noise

    Raises
    ------
    DataError, ParameterError
        The patterns cannot be read, or their number or size differs from the parameter file.
    """
    stored = _opened(init, folder, ledger)
    scan = (int(init["pos_N_scan_slow"]), int(init["pos_N_scan_fast"]))
    n = int(init["meas_Npix"])
    _check(stored.data, scan, n, init)
    plan = _plan(init)
    mean, sums, lowest = _look(stored.data)  # the only pass over patterns that stay in their file
    mean = raw_mean = steps.flipped(mean, plan.flips)
    changed = plan.changes or stored.path is None or lowest < 0
    if changed:
        data, scan, mean = _prepared(stored.data, scan, plan, init)
        sums = data.sum(axis=(1, 2), dtype=np.float64)
    else:
        data = None
        ledger.params.update(_as_stored(stored, bool(plan.flips[0])))
    normalization = init["meas_normalization"] or {"mode": None, "value": None}
    divisor = steps.normalization(mean, normalization["mode"], normalization["value"])
    mean, sums = mean / divisor, sums / divisor
    n_cropped = mean.shape[0]
    rim = None if plan.pad is None else _rim(plan.pad, mean, ledger.source)
    n_padded = n_cropped if rim is None else len(rim)
    sums = sums if rim is None else sums + rim.sum()
    if data is None:
        ledger.params["data_multiplier"] = 1 / divisor
    else:
        data /= np.float32(divisor)
        data = _finished(data, scan, None if plan.virtual_pad else rim, init, rng)
        if plan.later:
            sums = data.sum(axis=(1, 2), dtype=np.float64)
        ledger.params["dataset"] = data
    if plan.pad is not None and plan.virtual_pad:
        ledger.params.update(_padding(plan.pad, (n_padded - n_cropped) // 2))
    if plan.factor != 1:
        ledger.params["data_resample"] = plan.factor
    _record_keys(init, ledger, changed, plan.virtual_pad, divisor)
    n_pixels = math.floor(n_padded * plan.factor + 1e-9)
    return Measured(
        raw_mean=raw_mean,
        scan_size=scan,
        n_raw=n,
        n_cropped=n_cropped,
        n_padded=n_padded,
        n_pixels=n_pixels,
        n_read=math.floor((n_cropped if plan.virtual_pad else n_padded) * plan.factor + 1e-9),
        mean_total=float(sums.mean()),
        largest_total=float(sums.max()),
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The processing steps that the parameter file asks for.

    Attributes
    ----------
    flips : flags: reverse ky, reverse kx, exchange both axes
    crop : ranges of slow, fast, ky, kx; None = no cropping
    pad : meas_pad if it is on
    factor : of resampling, which is left to the engine
    later : whether there are steps after padding
    virtual_pad : whether the engine pads
    changes : whether patterns must be processed in memory, whatever their values
    """

    flips: list[int]
    crop: Any
    pad: Group | None
    factor: float
    later: bool
    virtual_pad: bool
    changes: bool


def _plan(init: Group) -> _Plan:
    flips = [int(flag) for flag in (init["meas_flipT"] or (0, 0, 0))]
    pad, factor = init["meas_pad"], _factor(init["meas_resample"])
    if pad is not None and pad["mode"] is None:
        pad = None
    later = any(init[f"meas_add_{what}"] for what in ("source_size", "detector_blur", "poisson_noise"))
    crop = init["meas_crop"] if any(limit is not None for limit in init["meas_crop"] or ()) else None
    n = int(init["meas_Npix"])
    cut = n if crop is None or crop[2] is None else len(range(n)[slice(*crop[2])])
    # The engine pads after resampling, by the same width on both sides; otherwise patterns are padded in memory.
    virtual_pad = pad is not None and not (later or factor != 1 or pad["value"] or (_target(pad) - cut) % 2)
    in_memory = pad is not None and not virtual_pad
    forced = init["meas_remove_neg_values"]["force"]
    changes = bool(flips[1] or flips[2] or crop or later or in_memory or forced)
    return _Plan(
        flips=flips, crop=crop, pad=pad, factor=factor, later=later, virtual_pad=virtual_pad, changes=changes
    )


def _rim(pad: Group, mean: np.ndarray, source: str) -> np.ndarray:
    """(T, T) counts of the padding around the mean pattern."""
    size, kind, n = _target(pad), pad["padding_type"], len(mean)
    if size < n or kind not in ("constant", "edge", "linear_ramp", "exp", "power"):
        raise ParameterError(
            f"{source}: meas_pad is {dict(pad)}; expected target_Npix >= {n}, and padding_type constant, edge, "
            "linear_ramp, exp or power"
        )
    return steps.background(mean, size, kind, float(pad["value"] or 0), float(pad["threshold"]))


def _opened(init: Group, folder: Path, ledger: Ledger) -> Stored:
    shape = (int(init["pos_N_scan_slow"]) * int(init["pos_N_scan_fast"]), *(int(init["meas_Npix"]),) * 2)
    stored = open_array(init["meas_params"], folder, "meas_params", shape)
    ledger.ours(
        _KEY + "meas_source",
        "data_path; dataset if patterns are changed or the engine cannot read the file",
    )
    ledger.ours(_KEY + "meas_params", "the patterns")
    for name in unknown_entries(init["meas_params"]):
        ledger.unused(f"{_KEY}meas_params.{name}", "PtyRAD ignores it, too")
    if isinstance(init["meas_params"], Mapping) and init["meas_params"].get("zarr_kwargs"):
        ledger.without(f"{_KEY}meas_params.zarr_kwargs", "zarr opens the file with its own defaults")
    array = stored.data
    try:
        if init["meas_permute"] is not None:
            array = np.transpose(np.asarray(array), [int(axis) for axis in init["meas_permute"]])
        if init["meas_reshape"] is not None:
            array = np.asarray(array).reshape([int(size) for size in init["meas_reshape"]])
    except ValueError as error:
        raise ParameterError(
            f"{ledger.source}: meas_permute {init['meas_permute']} or meas_reshape {init['meas_reshape']} do not fit "
            f"patterns of shape {tuple(stored.data.shape)}: {error}"
        ) from error
    return stored if array is stored.data else Stored(array)


def _check(array: Any, scan: tuple[int, int], n: int, init: Group) -> None:
    shape = tuple(int(size) for size in array.shape)
    count = math.prod(shape[:-2])
    n_scans = init["pos_N_scans"]
    if len(shape) not in (3, 4) or count != scan[0] * scan[1] or shape[-2:] != (n, n):
        raise DataError(
            f"the patterns have shape {shape}; init_params expects {scan[0]} x {scan[1]} patterns of {n} x {n} pixels "
            "(pos_N_scan_slow, pos_N_scan_fast, meas_Npix); correct them, or give meas_permute and meas_reshape"
        )
    if n_scans is not None and int(n_scans) != scan[0] * scan[1]:
        raise ParameterError(
            f"pos_N_scans is {n_scans}, expected pos_N_scan_slow x pos_N_scan_fast = {scan[0] * scan[1]}"
        )


def _pieces(array: Any) -> Iterator[np.ndarray]:
    """(n, ky, kx) float64 pieces of all patterns."""
    size = math.prod(array.shape[1:]) * 8
    step = max(1, _CHUNK_BYTES // size)
    for start in range(0, array.shape[0], step):
        piece = np.asarray(array[start : start + step], np.float64)
        yield piece.reshape(-1, *piece.shape[-2:])


def _look(array: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean pattern, sum of every pattern, smallest count."""
    total, sums, lowest = np.zeros(array.shape[-2:]), [], np.inf
    for piece in _pieces(array):
        total += piece.sum(axis=0)
        sums.append(piece.sum(axis=(1, 2)))
        lowest = min(lowest, float(piece.min()))
    every = np.concatenate(sums)
    if not np.isfinite(every).all():
        raise DataError("the patterns contain NaN or infinite values; correct the file")
    return total / len(every), every, lowest


def _as_stored(stored: Stored, flip: bool) -> dict[str, Any]:
    assert stored.path is not None
    out: dict[str, Any] = {"data_path": str(stored.path.resolve())}
    if stored.key is not None:
        out["data_key"] = stored.key
    return {**out, "flip_ky": True} if flip else out


def _prepared(
    array: Any, scan: tuple[int, int], plan: _Plan, init: Group
) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """float32 patterns after flips, cropping and removal of negative counts; scan size; mean pattern."""
    data = np.asarray(array[:], np.float32).reshape(-1, *array.shape[-2:])  # (N, ky, kx)
    data, crop = steps.flipped(data, plan.flips), plan.crop
    if crop is not None:
        data = steps.cropped(data, scan, crop)
        slow, fast = (
            range(size)[slice(*(limit or (None,)))] for size, limit in zip(scan, crop[:2], strict=True)
        )
        scan = (len(slow), len(fast))
    if data.shape[-2] != data.shape[-1]:
        raise ParameterError(
            f"meas_crop gives patterns of {data.shape[-2:]} pixels; PtyRAD needs square ones"
        )
    negatives = init["meas_remove_neg_values"]
    data = steps.without_negatives(data, negatives["mode"], negatives["value"], bool(negatives["force"]))
    return np.array(data, np.float32, order="C"), scan, data.mean(axis=0, dtype=np.float64)


def _finished(
    data: np.ndarray,
    scan: tuple[int, int],
    rim: np.ndarray | None,
    init: Group,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Pad and blur the patterns and add noise, as the parameter file asks for."""
    if rim is not None:
        data = steps.padded(data, rim)
    step = float(init["pos_scan_step_size"])
    if init["meas_add_source_size"]:
        data = steps.source_blurred(data, scan, float(init["meas_add_source_size"]) / step)
    if init["meas_add_detector_blur"]:
        data = steps.detector_blurred(data, float(init["meas_add_detector_blur"]))
    noise = init["meas_add_poisson_noise"]
    if noise:
        value = float(noise["value"] or 0)
        electrons = value * step**2 if noise["unit"] == "e_per_Ang2" else value  # per pattern
        if noise["unit"] not in ("e_per_Ang2", "total_e_per_pattern") or not electrons > 0:
            raise ParameterError(
                f"meas_add_poisson_noise is {dict(noise)}, expected unit total_e_per_pattern or e_per_Ang2, and a "
                "positive value"
            )
        data = steps.with_poisson_noise(data, electrons, rng)
    return np.maximum(data, 0)


def _target(pad: Group) -> int:
    return int(pad["target_Npix"])


def _factor(resample: Group | None) -> float:
    if resample is None or resample["mode"] is None:
        return 1.0
    return float(min(resample["scale_factors"]))


def _padding(pad: Group, width: int) -> dict[str, Any]:
    out: dict[str, Any] = {"data_pad": width, "data_pad_fill": pad["padding_type"]}
    if pad["padding_type"] in ("exp", "power"):
        out["data_pad_threshold"] = float(pad["threshold"])
    return out


def _record_keys(init: Group, ledger: Ledger, changed: bool, virtual_pad: bool, divisor: float) -> None:
    """Record the translation of all meas_ keys."""
    here = "applied to the patterns in memory (dataset)"
    for name in (
        "permute",
        "reshape",
        "flipT",
        "crop",
        "add_source_size",
        "add_detector_blur",
        "add_poisson_noise",
    ):
        value = init[f"meas_{name}"]
        if value is None:
            ledger.unused(_KEY + f"meas_{name}", "it is off")
        else:
            ledger.ours(
                _KEY + f"meas_{name}",
                here if changed else "flip_ky = True" if any(value) else "nothing to do",
            )
    ledger.ours(_KEY + "meas_remove_neg_values", here if changed else "no negative counts: nothing to do")
    ledger.ours(
        _KEY + "meas_normalization",
        f"counts are divided by {divisor:.6g}" + (", in memory" if changed else " (data_multiplier)"),
    )
    pad = init["meas_pad"]
    if pad is None or pad["mode"] is None:
        ledger.unused(_KEY + "meas_pad", "it is off")
    else:
        ledger.ours(_KEY + "meas_pad", "data_pad, data_pad_fill, data_pad_threshold" if virtual_pad else here)
    resample = init["meas_resample"]
    if resample is None or resample["mode"] is None:
        ledger.unused(_KEY + "meas_resample", "it is off")
    else:
        ledger.ours(_KEY + "meas_resample", "data_resample")
        if resample["mode"] == "precompute":
            ledger.note(
                "meas_resample: PtyRAD's precompute multiplies the counts by f^2 and samples other points; here both "
                "modes are the same, and sums are kept"
            )
    if init["meas_export"]:
        ledger.without(
            _KEY + "meas_export", "patterns are not exported; pypty convert writes processed ones as .npy"
        )
    else:
        ledger.unused(_KEY + "meas_export", "it is off")

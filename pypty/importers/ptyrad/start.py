"""Starting probe and object of a PtyRAD parameter file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.importers.ptyrad import object as objects
from pypty.importers.ptyrad import probe as probes
from pypty.importers.ptyrad.aberrations import cartesian_A, polar_terms
from pypty.importers.ptyrad.data import open_array
from pypty.importers.ptyrad.measured import Measured
from pypty.importers.ptyrad.object import Layers
from pypty.importers.ptyrad.sources import LOADED, load_source
from pypty.importers.ptyrad.translation import Group, Ledger
from pypty.optics.aberrations import aberration_names
from pypty.optics.grid import Grid

_KEY = "init_params."


def start_probe(
    init: Group,
    folder: Path,
    grid: Grid,
    data: Measured,
    tuned: frozenset[str],
    ledger: Ledger,
    *,
    keep_phases: bool = False,
) -> None:
    """``probe``: PtyRAD's divided by N, since its orthonormal Fourier transform has a factor 1/N and ours has not.

    Parameters
    ----------
    keep_phases : as in :func:`pypty.importers.ptyrad.probe.orthogonal`
    """
    angle = float(init["probe_conv_angle"])
    ledger.ours(_KEY + "probe_conv_angle", conv_semiangle_mrad=angle)
    terms = polar_terms(init["probe_aberrations"] or {}, f"{ledger.source}: probe_aberrations")
    total = _total(init["probe_normalization"], data)
    _record_keys(init, ledger)
    # If the aperture is searched, keep it without aberrations: the engine applies them in every trial.
    opened = init["probe_source"] == "simu" and bool({"conv_angle", "dx"} & tuned)
    if init["probe_source"] == "simu":
        kept = {order: term for order, term in terms.items() if not _is_tuned(order, tuned)}
        if len(kept) < len(terms) or any(_is_tuned(order, tuned) for order in _searched(tuned)):
            ledger.params["aberrations"] = np.zeros(len(aberration_names(25)))
            ledger.note("hypertune: aberrations that are searched start from 0, not from probe_aberrations")
        if opened:
            _aberrated_later(init, cartesian_A(kept), ledger)
            kept = {}
        probe = probes.stem_probe(grid, angle, cartesian_A(kept))[None]
    else:
        probe = _loaded_probe(init, folder, grid, ledger)
    if init["probe_permute"] is not None:
        axes = [int(axis) for axis in init["probe_permute"]]
        if sorted(axes) != [0, 1, 2]:
            raise ParameterError(
                f"{ledger.source}: probe_permute is {axes}, expected 0, 1 and 2 in some order"
            )
        probe = np.transpose(probe, axes)
    probe = probes.with_modes(
        probe,
        int(init["probe_pmode_max"]),
        [float(power) for power in init["probe_pmode_init_pows"]],
        keep_phases,
    )
    shift = init["probe_z_shift"]
    if shift and "z_shift" not in tuned and not opened:
        probe = probes.propagated(probe, grid, float(shift))
    if total is not None:
        probe = probe * np.sqrt(total / (np.abs(probe) ** 2).sum())
    ledger.params["probe"] = probe.transpose(1, 2, 0) / grid.shape[0]  # (mode, y, x) -> (y, x, mode)


def _record_keys(init: Group, ledger: Ledger) -> None:
    """Record the translation of the probe_ keys, and check probe_pmode_init_pows."""
    for name in (
        "probe_source",
        "probe_params",
        "probe_permute",
        "probe_z_shift",
        "probe_pmode_max",
        "probe_aberrations",
    ):
        ledger.ours(_KEY + name, "in the array probe")
    ledger.ours(_KEY + "probe_normalization", "power of the array probe")
    powers = init["probe_pmode_init_pows"]
    # One power for all added modes, or one per mode.
    if (
        not isinstance(powers, (list, tuple))
        or not powers
        or len(powers) not in (1, int(init["probe_pmode_max"]))
    ):
        raise ParameterError(
            f"{ledger.source}: probe_pmode_init_pows is {powers!r}, expected one number, or one for each of "
            f"{init['probe_pmode_max']} modes"
        )
    if len(powers) > 1:
        ledger.ours(_KEY + "probe_pmode_init_pows", "powers of the modes")
        ledger.note("probe_pmode_init_pows: each mode has its given power (PtyRAD uses only the smallest)")
    else:
        ledger.ours(
            _KEY + "probe_pmode_init_pows",
            "power p of every added mode, before all modes are scaled to the total",
        )


def _total(entry: Group | None, data: Measured) -> float | None:
    """Sum |psi|^2 of the starting probe; None: as it is loaded or simulated. ``entry`` is probe_normalization."""
    if entry is None or entry["mode"] is None:
        return None
    mode, value = entry["mode"], entry["value"]
    if mode == "target_intensity":
        if not isinstance(value, (int, float)) or not value > 0:
            raise ParameterError(
                f"probe_normalization: target_intensity needs a positive value, given {value!r}"
            )
        return float(value)
    totals = {"mean_total_ints": data.mean_total, "max_total_ints": data.largest_total}
    if mode not in totals:
        raise ParameterError(
            f"probe_normalization.mode is {mode!r}, expected {', '.join(totals)} or target_intensity"
        )
    return totals[mode]


def _is_tuned(order: tuple[int, int], tuned: frozenset[str]) -> bool:
    n, m = order
    return any(f"C{n}{m}{part}" in tuned for part in ("", "a", "b"))


def _searched(tuned: frozenset[str]) -> list[tuple[int, int]]:
    return [(int(name[1]), int(name[2])) for name in tuned if name[0] == "C" and name[1:3].isdigit()]


def _aberrated_later(init: Group, aberrations: np.ndarray, ledger: Ledger) -> None:
    """Leave aberrations and defocus to the engine; ``probe`` is then the aperture alone, whose size is searched."""
    total = np.array(ledger.params.get("aberrations", np.zeros(len(aberrations))), float)
    total = np.concatenate([total, np.zeros(max(0, len(aberrations) - len(total)))])
    total[: len(aberrations)] += aberrations
    if total.any() or "aberrations" in ledger.params:
        ledger.params["aberrations"] = total
    if init["probe_z_shift"]:
        ledger.params["extra_probe_defocus"] = float(init["probe_z_shift"])
    ledger.note(
        "hypertune of conv_angle or dx: the aperture of the starting probe is recomputed in every trial"
    )


def _loaded_probe(init: Group, folder: Path, grid: Grid, ledger: Ledger) -> np.ndarray:
    source, entry = init["probe_source"], init["probe_params"]
    if source in LOADED:
        probe = load_source(source, entry, folder, "probe_params").probe
    elif source == "custom":
        probe = np.asarray(open_array(entry, folder, "probe_params").data).astype(complex)
    else:
        raise ParameterError(
            f"{ledger.source}: probe_source is {source!r}, expected simu, {', '.join(LOADED)} or custom"
        )
    probe = probe if probe.ndim == 3 else probe[None]  # (y, x) -> (1, y, x)
    if probe.ndim != 3 or sorted(probe.shape)[-2:] != [grid.shape[0]] * 2:
        raise ParameterError(
            f"{ledger.source}: the probe of probe_params has shape {probe.shape}, expected (modes, {grid.shape[0]}, "
            f"{grid.shape[0]})"
        )
    return probe


def start_object(
    init: Group,
    folder: Path,
    canvas: np.ndarray,
    rng: np.random.RandomState,
    tuned: frozenset[str],
    ledger: Ledger,
) -> Layers:
    """``obj`` with its slices and mode weights; ``canvas`` (2,) are its sides unless the file gives the object."""
    layers = _first(init, folder, canvas, rng, ledger)
    layers = objects.with_modes(_along_beam(init, layers), int(init["obj_omode_max"]), rng)
    n_modes = len(layers.amplitude)
    for name in ("obj_source", "obj_params", "obj_z_crop", "obj_z_pad", "obj_z_resample", "obj_omode_max"):
        ledger.ours(_KEY + name, "in the array obj")
    ledger.ours(_KEY + "obj_Nlayer", num_slices=layers.n_slices)
    if layers.n_slices > 1:
        ledger.ours(_KEY + "obj_slice_thickness", slice_distances=[layers.thickness_A])
    else:
        ledger.unused(_KEY + "obj_slice_thickness", "the object has one slice")
    weights = objects.occupancies(init["obj_omode_init_occu"], n_modes)
    if n_modes > 1:
        ledger.ours(_KEY + "obj_omode_init_occu", obj_mode_weights=weights.tolist())
    else:
        ledger.unused(_KEY + "obj_omode_init_occu", "the object has one mode")
    if {"Nlayer", "dx"} & tuned:
        ledger.note("hypertune of Nlayer or dx: every trial starts from vacuum, with the size of its scan")
    else:
        ledger.params["obj"] = layers.transmission()
    resampled = init["obj_z_resample"]
    if resampled and resampled["mode"]:
        ledger.note(
            "obj_z_resample keeps the integrated phase for every ratio of slices (PtyRAD only for integer ratios)"
        )
    return layers


def _first(
    init: Group, folder: Path, canvas: np.ndarray, rng: np.random.RandomState, ledger: Ledger
) -> Layers:
    source, entry = init["obj_source"], init["obj_params"]
    thickness = float(init["obj_slice_thickness"])
    if source == "simu":
        if entry is not None:  # [modes, slices, y, x]
            shape = [int(size) for size in entry]
        else:
            shape = [int(init["obj_omode_max"]), int(init["obj_Nlayer"]), *(int(size) for size in canvas)]
        return objects.random_phase(shape, thickness, rng)
    if source in LOADED:
        loaded = load_source(source, entry, folder, "obj_params")
        if (
            loaded.thickness_A is not None
            and abs(loaded.thickness_A / thickness - 1) > 1e-3
            and loaded.amplitude.shape[1] > 1
        ):
            ledger.note(
                f"obj_slice_thickness = {thickness:g} Å is used; the slices of obj_params were "
                f"{loaded.thickness_A:g} Å apart"
            )
        return Layers(loaded.amplitude, loaded.phase, thickness)
    if source == "custom":
        array = np.asarray(open_array(entry, folder, "obj_params").data)
        if array.ndim != 4:
            raise ParameterError(f"obj_params has shape {array.shape}, expected (modes, slices, y, x)")
        return Layers(np.abs(array).astype(float), np.angle(array).astype(float), thickness)
    raise ParameterError(
        f"{ledger.source}: obj_source is {source!r}, expected simu, {', '.join(LOADED)} or custom"
    )


def _along_beam(init: Group, layers: Layers) -> Layers:
    crop, pad, resample = init["obj_z_crop"], init["obj_z_pad"], init["obj_z_resample"]
    if crop is not None:
        layers = objects.cropped(layers, int(crop[0]), int(crop[1]))
    if pad is not None:
        counts, kinds = _pair(pad["pad_layers"]), _pair(pad["pad_types"])
        # null = no layers on that side
        layers = objects.padded(layers, [int(count or 0) for count in counts], [str(kind) for kind in kinds])
    if resample is not None and resample["mode"] is not None:
        value = resample["value"]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ParameterError(f"obj_z_resample.value is {value!r}, expected a positive number")
        if resample["mode"] not in objects.RESAMPLING:
            raise ParameterError(
                f"obj_z_resample.mode is {resample['mode']!r}, expected one of {', '.join(objects.RESAMPLING)}"
            )
        layers = objects.resampled(layers, resample["mode"], float(value))
    return layers


def _pair(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value, value]

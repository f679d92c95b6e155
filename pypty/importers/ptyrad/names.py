"""PtyRAD's names of output folders: its parts with the units and the spelling of its parameter file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.importers.ptyrad.aberrations import polar_terms
from pypty.importers.ptyrad.translation import Group, Ledger
from pypty.params.reading import read_keys
from pypty.params.report import Report
from pypty.params.settings import Settings
from pypty.results.folder_name import CONSTRAINT_TEXTS, OBJECT_PART, RunSizes, respelt

_SHORT: Mapping[str, str] = MappingProxyType(
    {
        "probe": "p",
        "obja": "oa",
        "objp": "op",
        "probe_pos_shifts": "s",
        "obj_tilts": "t",
        "slice_thickness": "dz",
    }
)
"""Abbreviations of the variables, in the order of PtyRAD's names."""
_TERMS = (
    ("loss_single", "sng"),
    ("loss_poissn", "psn"),
    ("loss_pacbed", "pcb"),
    ("loss_sparse", "spr"),
    ("loss_simlar", "sml"),
)
_ARRAYS = ("dataset", "obj", "probe", "positions")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Numbers of the starting state that PtyRAD's names contain.

    Attributes
    ----------
    pattern_px, simulated_px : side of a pattern as our engine reads it, and as PtyRAD simulates it
    tilt_mrad : (2,) mean tilt [y, x], with PtyRAD's sign
    wavelength_A : Å
    """

    pattern_px: int
    simulated_px: int
    tilt_mrad: np.ndarray
    wavelength_A: float


def spell_folder_name(groups: Mapping[str, Group], shown: Shown, ledger: Ledger) -> None:
    """``recon_dir_spelling``: for as long as the settings are those of the file, folders have PtyRAD's names.

    Numbers are written as the file writes them (1 or 1.0), rates in the file's units.
    """
    if not (ledger.params["output_folder"] and ledger.params["recon_dir_affixes"]):
        return
    init, model, recon = (groups[name] for name in ("init_params", "model_params", "recon_params"))
    flips, affine = init["meas_flipT"], init["pos_scan_affine"]
    size = recon["BATCH_SIZE"]
    texts = {
        "meas": f"dp{shown.simulated_px}",
        "flips": "" if flips is None else f"flipT{''.join(str(int(flag)) for flag in flips)}",
        "batch": f"{recon['GROUP_MODE']}{int(size['size']) * int(size['grad_accumulation'])}",
        "optimizer": str(model["optimizer_params"]["name"]),
        "scheduler": _scheduler(model["scheduler_params"]),
        "start_iter": "_".join(_starts(model["update_params"])),
        "lr": "_".join(_rates(model["update_params"])),
        "model": f"dpblur{model['detector_blur_std']}" if model["detector_blur_std"] else "",
        "constraint": "_".join(_constraints(groups["constraint_params"])),
        "loss": "_".join(_losses(groups["loss_params"])),
        "conv_angle": f"ca{init['probe_conv_angle']:.3g}",
        "aberrations": "_".join(_aberrations(init, ledger.source)),
        "z_shift": f"z_shift{init['probe_z_shift']:.3g}" if init["probe_z_shift"] else "",
        "affine": "" if affine is None or list(affine) == [1, 0, 0, 0] else _affine(affine),
        "tilt": f"tilt{shown.tilt_mrad[0]:.2g}_{shown.tilt_mrad[1]:.2g}" if shown.tilt_mrad.any() else "",
    }
    if model["obj_preblur_std"]:
        blur = f"opreblur{model['obj_preblur_std']}"
        texts["model"] = "_".join(filter(None, (texts["model"], blur)))
    given = {name: value for name, value in ledger.params.items() if name not in _ARRAYS}
    fixed, schedules = read_keys(given, Report())
    settings = Settings(MappingProxyType(fixed), MappingProxyType(schedules), frozenset(given))
    sizes = RunSizes(
        patterns=1,
        detector=(shown.pattern_px,) * 2,
        probe_modes=1,
        object_modes=1,
        slices=1,
        wavelength_A=shown.wavelength_A,
    )
    ledger.params["recon_dir_spelling"] = respelt(settings, sizes, texts)


def _scheduler(entry: Group | None) -> str:
    return "" if entry is None or entry["name"] is None else str(entry["name"])


def _starts(updates: Group) -> Iterator[str]:
    """The iteration from which on a variable is refined, if it is not the first."""
    for name, short in _SHORT.items():
        start = updates[name]["start_iter"]
        if start is not None and start > 1:
            yield f"{short}s{int(start)}"


def _rates(updates: Group) -> Iterator[str]:
    for name, short in _SHORT.items():
        lr = updates[name]["lr"]
        if lr:
            # one digit, and no zero before the exponent of a small rate: 5e-4
            yield f"{short}lr{float(lr):.0e}".replace("e-0", "e-")


def _constraints(table: Group) -> Iterator[str]:
    for name, text in CONSTRAINT_TEXTS:
        entry = table[name]
        if entry["start_iter"] is None:
            continue
        words = {key: _rounded(value) for key, value in entry.items()}
        words["of"] = OBJECT_PART[entry.get("obj_type", "both")]
        words["mode"] = str(entry.get("mode", ""))[:1]
        words["relax"] = _rounded(entry.get("relax") or "")
        yield text.format(**words)


def _rounded(value: Any) -> Any:
    """A number (of a list the first one) with two decimals at most; 1 stays 1, and 1.0 stays 1.0."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return round(first, 2) if isinstance(first, (int, float)) else first


def _losses(terms: Group) -> Iterator[str]:
    for name, short in _TERMS:
        if terms[name]["state"]:
            yield f"{short}{_rounded(terms[name]['weight'])}"


def _aberrations(init: Group, source: str) -> Iterator[str]:
    """Krivanek's coefficients (Å) and, except for round ones, their angles (degrees)."""
    terms = polar_terms(init["probe_aberrations"] or {}, f"{source}: probe_aberrations")
    for (n, m), (size, angle) in terms.items():
        if size:
            yield f"C{n}{m}_{size:.3g}"
            yield from [f"phi{n}{m}_{angle:.3g}"] if m else []


def _affine(values: Any) -> str:
    scale, asymmetry, rotation, shear = (float(value) for value in values)
    return f"aff{scale:.2f}_{asymmetry:.2f}_{rotation:.1f}_{shear:.1f}"

"""The name of an output folder, made from the settings of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.model.blocks import BLOCKS
from pypty.optics.aberrations import aberration_names
from pypty.params.checks.results import FORBIDDEN, TIME_FORMATS
from pypty.params.settings import Settings

LONGEST = 255
"""Longest name that all file systems accept, in bytes."""

MINIMAL = ("indices", "meas", "batch", "pmode", "omode", "nlayer")
DEFAULT = (*MINIMAL, "lr", "model", "constraint", "loss", "affine", "tilt", "aberrations")
_RESERVED = frozenset(
    ("CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10)))
)


@dataclass(frozen=True, kw_only=True)
class RunSizes:
    """Numbers in a folder's name that are not among the settings.

    Attributes
    ----------
    patterns : number of fitted patterns
    detector : (ky, kx) pixels of a measured pattern
    probe_modes, object_modes, slices : numbers of them
    wavelength_A : Å
    """

    patterns: int
    detector: tuple[int, int]
    probe_modes: int
    object_modes: int
    slices: int
    wavelength_A: float


def folder_name(settings: Settings, sizes: RunSizes, now: datetime) -> str:
    """Time, prefix, settings and postfix, joined by "_"; at most 255 bytes, and valid on all systems.

    The order of the settings is fixed, whatever their order in ``recon_dir_affixes``. Settings without effect in this
    run (learning rates with L-BFGS, a tilt of zero) are left out. ``recon_dir_spelling`` replaces parts.
    """
    chosen, spelling = _chosen(settings["recon_dir_affixes"]), settings["recon_dir_spelling"]
    parts = [_time(settings["prefix_time"], now), settings["prefix"]]
    for tag, make in _MAKERS.items():
        if tag in chosen:
            part = "_".join(make(settings, sizes))
            # another spelling of settings that were changed since would be wrong
            instead_of, text = spelling.get(tag, (part, part))
            parts.append(text if part == instead_of else part)
    parts.append(settings["postfix"])
    return _safe("_".join(part for part in parts if part))


def respelt(settings: Settings, sizes: RunSizes, texts: Mapping[str, str]) -> dict[str, list[str]]:
    """``recon_dir_spelling`` that writes ``texts`` (by tag of ``RESPELT``) for as long as the settings are these."""
    own = {tag: "_".join(_MAKERS[tag](settings, sizes)) for tag in texts}
    return {tag: [own[tag], text] for tag, text in texts.items() if text != own[tag]}


def _chosen(affixes: Sequence[str]) -> frozenset[str]:
    presets = {"minimal": MINIMAL, "default": DEFAULT, "all": tuple(_MAKERS)}
    tags = frozenset(tag for name in affixes for tag in presets.get(name, (name,)))
    return tags | {"flips"} if "meas" in tags else tags


def _time(prefix_time: bool | str, now: datetime) -> str:
    if not prefix_time:
        return ""
    return now.strftime(TIME_FORMATS.get("date" if prefix_time is True else prefix_time, str(prefix_time)))


def _safe(name: str) -> str:
    """A name that is also valid on Windows, cut after 255 bytes (whole characters)."""
    name = "".join("-" if item in FORBIDDEN or ord(item) < ord(" ") else item for item in name)
    name = name.encode()[:LONGEST].decode(errors="ignore").rstrip(". ")
    # Windows reserves the names of devices, also with an ending.
    return f"_{name[: LONGEST - 1]}" if name.split(".")[0].upper() in _RESERVED else name


def _short(value: float) -> str:
    """Three significant digits, enough to distinguish runs."""
    return f"{float(value):.3g}"


def _rate(value: float) -> str:
    """5e-4, 1.5e-3."""
    return np.format_float_scientific(float(value), precision=2, trim="-", exp_digits=1)


def _indices(settings: Settings, sizes: RunSizes) -> list[str]:
    return [settings["indices_mode"], f"N{sizes.patterns}"]


def _measured(settings: Settings, sizes: RunSizes) -> list[str]:
    ky, kx = sizes.detector
    return [f"dp{ky}" if ky == kx else f"dp{ky}x{kx}"]


def _flips(settings: Settings, sizes: RunSizes) -> list[str]:
    return ["flipky"] if settings["flip_ky"] else []


def _batch(settings: Settings, sizes: RunSizes) -> list[str]:
    now = settings.first()
    if now["optimizer"] == "lbfgs":
        return []
    size, factor = now["batch_size"], now["grad_accumulation"]
    product = size * factor if isinstance(size, int) else f"{size}x{factor}" if factor > 1 else size
    return [f"{settings['group_mode']}{product}"]


def _layers(settings: Settings, sizes: RunSizes) -> list[str]:
    gap = [f"dz{_short(np.mean(settings['slice_distances']))}"] if sizes.slices > 1 else []
    return [f"{sizes.slices}slice", *gap]


def _scheduler(settings: Settings, sizes: RunSizes) -> list[str]:
    scheduler = settings["lr_scheduler"]
    return [] if scheduler is None or not _has_rates(settings) else [scheduler["name"]]


_TAGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        rate: (tag, BLOCKS[name].switch)
        for name in ("probe", *BLOCKS)  # PtyRAD names that of the probe first
        for rate, tag in BLOCKS[name].rates.items()
    }
)
"""Abbreviation of each learning rate, and the switch that must be on."""


def _has_rates(settings: Settings) -> bool:
    return settings.first()["optimizer"] not in ("lbfgs", "preconditioned")


def _rates(settings: Settings) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Abbreviation and record of every learning rate that acts in this run."""
    if not _has_rates(settings):
        return
    now = settings.first()
    table = now["learning_rates"]
    # The object has one rate, or one each for amplitude and phase.
    if now["phase_only_obj"]:
        of_object = {"objp"}
    else:
        of_object = {"obja", "objp"} if now["obj_parametrization"] == "amplitude_phase" else {"obj"}
    for name, (short, switch) in _TAGS.items():
        if not settings.may_be_on(switch) or (switch == "update_obj" and name not in of_object):
            continue
        absolute = name == "probe" and table["probe_abs"]["lr"]
        yield short, table["probe_abs" if absolute else name]


def _starts(settings: Settings, sizes: RunSizes) -> list[str]:
    return [f"{short}s{record['start']}" for short, record in _rates(settings) if record["start"] > 0]


def _learning_rates(settings: Settings, sizes: RunSizes) -> list[str]:
    return [f"{short}lr{_rate(record['lr'])}" for short, record in _rates(settings) if record["lr"] > 0]


def _model(settings: Settings, sizes: RunSizes) -> list[str]:
    widths = (("dpblur", "detector_blur_std"), ("opreblur", "obj_preblur_std"))
    return [f"{short}{_short(settings.value(key))}" for short, key in widths if settings.value(key) > 0]


OBJECT_PART: Mapping[str, str] = MappingProxyType({"amplitude": "a", "phase": "p", "both": ""})
"""What a constraint of the object acts on, in its text."""
CONSTRAINT_TEXTS: tuple[tuple[str, str], ...] = (
    ("kr_filter", "kr{of}f{radius}"),
    ("kz_filter", "kz{of}f{beta}"),
    ("kr_thresh", "krt{of}{thresh}"),
    ("obj_rblur", "o{of}rblur{std}"),
    ("obj_zblur", "o{of}zblur{std}"),
    ("complex_ratio", "o{of}cplx{alpha1}_{alpha2}"),
    ("mirrored_amp", "mamp{scale}_{power}"),
    ("obj_z_recenter", "ozrec"),
    ("obja_thresh", "oathr{thresh}"),
    ("objp_postiv", "opos{mode}{relax}"),
    ("tilt_smooth", "tsm{std}"),
    ("probe_mask_k", "pmk{radius}"),
    ("probe_mask_r", "pmr{radius}"),
)
"""Texts of the constraints, in their order, with fields of their records; PtyRAD's files use the same."""


def _constraints(settings: Settings, sizes: RunSizes) -> list[str]:
    table = settings.first()["constraints"]
    return [text.format(**_words(table[name])) for name, text in CONSTRAINT_TEXTS if name in table]


def _words(record: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a constraint, formatted for the folder name."""
    words = {"of": OBJECT_PART[record.get("obj_type", "both")]}
    for key, value in record.items():
        if key == "mode":
            words[key] = str(value)[0]
        elif key == "relax":
            words[key] = _short(value) if value else ""
        elif isinstance(value, (int, float, np.ndarray)):
            words[key] = _short(np.ravel(value)[0])
    return words


_TERMS: Mapping[str, str] = MappingProxyType(
    {"single": "sng", "poissn": "psn", "pacbed": "pcb", "sparse": "spr", "simlar": "sml"}
)


def _losses(settings: Settings, sizes: RunSizes) -> list[str]:
    terms = settings["loss_terms"]
    if terms is None:
        return [settings["algorithm"]]
    return [f"{_TERMS[name]}{_short(term['weight'])}" for name, term in terms.items() if term["weight"] > 0]


def _angle(settings: Settings, sizes: RunSizes) -> list[str]:
    """Semi-angle in mrad of an aperture that is given as a fraction of the Nyquist frequency."""
    radius = settings["aperture_mask"]
    if radius is None or isinstance(radius, np.ndarray):
        return []
    pixel = max(settings["pixel_size_x_A"], settings["pixel_size_y_A"])
    return [f"ca{_short(1e3 * radius * sizes.wavelength_A / (2 * pixel))}"]


def _aberrations(settings: Settings, sizes: RunSizes) -> list[str]:
    aberrations = settings["aberrations"]
    values = [] if aberrations is None else list(aberrations)
    names = aberration_names(len(values))
    return [f"{name}_{_short(value)}" for name, value in zip(names, values, strict=True) if value]


def _shift(settings: Settings, sizes: RunSizes) -> list[str]:
    shift = settings["extra_probe_defocus"]
    return [f"z_shift{_short(shift)}"] if shift else []


def _affine(settings: Settings, sizes: RunSizes) -> list[str]:
    how = settings.first()["positions_parametrization"]
    return [f"pos{how}"] if how != "free" and settings.may_be_on("update_probe_pos") else []


def _tilt(settings: Settings, sizes: RunSizes) -> list[str]:
    tilts = settings["tilts"]
    mean = np.zeros(2) if tilts is None else 1e3 * tilts[:, 2:4].mean(axis=0)
    return [f"tilt{_short(mean[0])}_{_short(mean[1])}"] if mean.any() else []


_MAKERS: Mapping[str, Callable[[Settings, RunSizes], list[str]]] = MappingProxyType(
    {
        "indices": _indices,
        "meas": _measured,
        "flips": _flips,
        "batch": _batch,
        "pmode": lambda settings, sizes: [f"p{sizes.probe_modes}"],
        "omode": lambda settings, sizes: [f"{sizes.object_modes}obj"],
        "nlayer": _layers,
        "optimizer": lambda settings, sizes: [settings.first()["optimizer"]],
        "scheduler": _scheduler,
        "start_iter": _starts,
        "lr": _learning_rates,
        "model": _model,
        "constraint": _constraints,
        "loss": _losses,
        "conv_angle": _angle,
        "aberrations": _aberrations,
        "z_shift": _shift,
        "dx": lambda settings, sizes: [f"dx{settings['pixel_size_x_A']:.4g}"],
        "affine": _affine,
        "tilt": _tilt,
    }
)

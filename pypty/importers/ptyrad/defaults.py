"""All keys of PtyRAD's parameter files, with PtyRAD's defaults (which may differ from ours) and allowed values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pypty.params.kinds import Anything, Choice, Either, Flag, Kind, Number, Text, optional
from pypty.params.nested import Entries, ListOf

OBJECT_TYPES = ("both", "amplitude", "phase")


@dataclass(frozen=True)
class Row:
    """One key.

    Attributes
    ----------
    default, kind : PtyRAD's default, and the allowed values
    rows : keys of an entry that is a mapping; empty if its content is checked where it is used
    required : whether PtyRAD, too, refuses a file without it
    xray : whether it belongs to X-ray experiments
    """

    default: Any
    kind: Kind
    rows: Mapping[str, Row] = field(default_factory=lambda: MappingProxyType({}))
    required: bool = False
    xray: bool = False


Rows = Mapping[str, Row]
"""Keys of a group, or of an entry that is a mapping."""

_WHOLE, _NUMBER, _ABOVE_0 = Number(integer=True), Number(), Number(low=0, open_low=True)
_COUNT = Number(low=0, open_low=True, integer=True)
_BOOL, _WORD, _LIST = Flag(strict=True), Text(), ListOf(Anything())
_CROP = ListOf(optional(ListOf(Anything(), 2)), 4)


def _fixed(**entries: Any) -> Mapping[str, Any]:
    return MappingProxyType(entries)


def _any(default: Any = None) -> Row:
    return Row(default, Anything())


def _or_null(kind: Kind, default: Any = None, **more: Any) -> Row:
    """A key that may be null, whatever its default."""
    return Row(default, optional(kind), **more)


def _rows(**rows: Row) -> Row:
    """A mapping with these keys."""
    return Row(_fixed(**{key: row.default for key, row in rows.items()}), Entries(), MappingProxyType(rows))


def _rows_or_null(**rows: Row) -> Row:
    return dataclasses.replace(_rows(**rows), kind=optional(Entries()))


def _off(**rows: Row) -> Row:
    """A mapping with these keys, null unless the file gives it."""
    return Row(None, optional(Entries()), MappingProxyType(rows))


def _open(**default: Any) -> Row:
    """A mapping or null, whose content is checked where it is used."""
    return _or_null(Entries(), _fixed(**default))


def _needed(kind: Kind) -> Row:
    return _or_null(kind, required=True)


def _xray() -> Row:
    return _or_null(_NUMBER, xray=True)


INIT: Rows = _fixed(
    random_seed=_or_null(_WHOLE),
    probe_illum_type=Row("electron", _WORD),
    probe_kv=_needed(_ABOVE_0),
    probe_conv_angle=_needed(_ABOVE_0),
    meas_Npix=_needed(_COUNT),
    pos_N_scan_slow=_needed(_COUNT),
    pos_N_scan_fast=_needed(_COUNT),
    pos_scan_step_size=_needed(_ABOVE_0),
    obj_Nlayer=_needed(_COUNT),
    obj_slice_thickness=_needed(_ABOVE_0),
    meas_params=_needed(Anything()),
    beam_kev=_xray(),
    probe_dRn=_xray(),
    probe_Rn=_xray(),
    probe_D_H=_xray(),
    probe_D_FZP=_xray(),
    probe_Ls=_xray(),
    probe_aberrations=_open(),
    pos_N_scans=_or_null(_WHOLE),
    meas_calibration=_rows(mode=_any("fitRBF"), value=_any()),
    probe_pmode_max=Row(4, _COUNT),
    probe_pmode_init_pows=Row((0.02,), _LIST),
    obj_omode_max=Row(1, _COUNT),
    obj_omode_init_occu=_rows(occu_type=Row("uniform", _WORD), init_occu=_any()),
    simu_Npix=_or_null(_WHOLE),
    simu_match_mode=_any(),
    meas_permute=_or_null(ListOf(_NUMBER)),
    meas_reshape=_or_null(ListOf(_NUMBER, 3)),
    meas_flipT=_or_null(ListOf(_NUMBER, 3)),
    meas_crop=_or_null(_CROP),
    meas_remove_neg_values=_rows(mode=_any("clip_neg"), value=_any(), force=Row(False, _BOOL)),
    meas_normalization=_rows_or_null(mode=_any("max_at_one"), value=_any()),
    meas_pad=_off(
        mode=_any("on_the_fly"),
        padding_type=Row("power", _WORD),
        target_Npix=Row(256, _WHOLE),
        value=_any(0.0),
        threshold=Row(70.0, _NUMBER),
    ),
    meas_resample=_off(mode=_any("on_the_fly"), scale_factors=Row((2.0, 2.0), _LIST)),
    meas_add_source_size=_or_null(_NUMBER),
    meas_add_detector_blur=_or_null(_NUMBER),
    meas_add_poisson_noise=_off(unit=_any(), value=_any()),
    meas_export=Row(
        None,
        Anything(),
        _fixed(
            file_dir=_any(),
            file_name=Row("ptyrad_init_meas", _WORD),
            file_format=Row("hdf5", _WORD),
            output_shape=_any(),
            append_shape=Row(True, _BOOL),
        ),
    ),
    probe_permute=_any(),
    probe_z_shift=_or_null(_NUMBER),
    probe_normalization=_rows_or_null(mode=_any("mean_total_ints"), value=_any()),
    pos_scan_flipT=_or_null(ListOf(_NUMBER, 3)),
    pos_scan_affine=_or_null(ListOf(_NUMBER, 4)),
    pos_scan_rand_std=_or_null(_NUMBER, 0.15),
    obj_z_crop=_or_null(ListOf(_NUMBER, 2)),
    obj_z_pad=_off(pad_layers=_any((0, 0)), pad_types=_any(("vacuum", "vacuum"))),
    obj_z_resample=_off(mode=_any(), value=_any()),
    meas_source=Row("file", _WORD),
    probe_source=Row("simu", _WORD),
    probe_params=_any(),
    pos_source=Row("simu", _WORD),
    pos_params=_any(),
    obj_source=Row("simu", _WORD),
    obj_params=_any(),
    tilt_source=Row("simu", _WORD),
    tilt_params=_any(_fixed(tilt_type="all", init_tilts=((0.0, 0.0),))),
)
REQUIRED = tuple(name for name, row in INIT.items() if row.required)
XRAY = tuple(name for name, row in INIT.items() if row.xray)

TUNED = (
    "optimizer",
    "batch_size",
    *("plr", "oalr", "oplr", "slr", "tlr", "dzlr"),
    *("dx", "pmode_max", "conv_angle", "z_shift", "Nlayer", "dz"),
    *("C10", "C12", "C21", "C23", "C30", "C32", "C34", "C41", "C43", "C45", "C50", "C52", "C54", "C56"),
    *("scale", "asymmetry", "rotation", "shear", "tilt_y", "tilt_x"),
    *("defocus", "c3", "c5"),
)
HYPERTUNE: Rows = _fixed(
    if_hypertune=Row(False, _BOOL),
    verbosity=Row("WARNING", _WORD),
    collate_results=Row(True, _BOOL),
    append_params=Row(True, _BOOL),
    n_trials=Row(5, _WHOLE),
    timeout=_or_null(_NUMBER),
    sampler_params=Row(
        _fixed(name="TPESampler", configs=_fixed(multivariate=True, group=True, constant_liar=True)),
        Entries(),
    ),
    pruner_params=_open(name="HyperbandPruner", configs=_fixed(min_resource=5, reduction_factor=2)),
    storage_path=Row("sqlite:///hypertune.sqlite3", _WORD),
    study_name=Row("study", _WORD),
    error_metric=Row("loss", _WORD),
    tune_params=_open(**dict.fromkeys(TUNED)),
)


def _update(start: int | None, lr: float) -> Row:
    return _rows(start_iter=_or_null(_WHOLE, start), lr=Row(lr, _NUMBER), end_iter=_or_null(_WHOLE))


MODEL: Rows = _fixed(
    detector_blur_std=_or_null(_NUMBER),
    preload_data=Row(True, _BOOL),
    optimizer_params=_rows(name=Row("Adam", _WORD), configs=_open(), load_state=_any()),
    scheduler_params=_off(name=_any(), configs=_open(), load_state=_any(), step_unit=Row("iter", _WORD)),
    update_params=_rows(
        obja=_update(1, 5e-4),
        objp=_update(1, 5e-4),
        obj_tilts=_update(None, 0.0),
        slice_thickness=_update(None, 0.0),
        probe=_update(1, 1e-4),
        probe_pos_shifts=_update(1, 5e-4),
    ),
    obj_preblur_std=_or_null(_NUMBER),
)


def _numbers(**defaults: float) -> dict[str, Row]:
    return {key: Row(default, _NUMBER) for key, default in defaults.items()}


def _term(state: bool, weight: float, **options: Row) -> Row:
    return _rows(state=Row(state, _BOOL), weight=Row(weight, _NUMBER), **options)


_object = Row("both", _WORD)

LOSS: Rows = _fixed(
    loss_single=_term(True, 1.0, **_numbers(dp_pow=0.5)),
    loss_poissn=_term(False, 1.0, **_numbers(dp_pow=1.0, eps=1e-6)),
    loss_pacbed=_term(False, 0.5, **_numbers(dp_pow=0.2)),
    loss_sparse=_term(False, 0.1, **_numbers(ln_order=1)),
    loss_simlar=_term(
        False, 0.1, obj_type=_object, scale_factor=Row((1.0, 1.0, 1.0), _LIST), **_numbers(blur_std=1.0)
    ),
)


def _constraint(start: int | None, **options: Row) -> Row:
    times = {"start_iter": _or_null(_WHOLE, start), "step": _or_null(_WHOLE, 1), "end_iter": _or_null(_WHOLE)}
    return _rows(**times, **options)


_kernel = Row(5, _WHOLE)

CONSTRAINT: Rows = _fixed(
    ortho_pmode=_constraint(1),
    probe_mask_k=_constraint(None, **_numbers(radius=0.22, width=0.05, power_thresh=0.95)),
    probe_mask_r=_constraint(
        None,
        **_numbers(radius=0.95, order=6, power_thresh=0.95),
        z_range=Row((-500.0, 500.0), _LIST),
        z_steps=Row(101, _WHOLE),
    ),
    fix_probe_int=_constraint(1),
    obj_rblur=_constraint(1, obj_type=_object, kernel_size=_kernel, **_numbers(std=0.4)),
    obj_zblur=_constraint(1, obj_type=_object, kernel_size=_kernel, **_numbers(std=1.0)),
    kr_filter=_constraint(None, obj_type=_object, **_numbers(radius=0.15, width=0.05)),
    kz_filter=_constraint(None, obj_type=_object, **_numbers(beta=1.0, alpha=1.0)),
    kr_thresh=_constraint(None, obj_type=_object, thresh=_any(0.05)),
    complex_ratio=_constraint(None, obj_type=_object, **_numbers(alpha1=1.0, alpha2=0.0)),
    mirrored_amp=_constraint(None, **_numbers(relax=0.1, scale=0.03, power=4.0)),
    obj_z_recenter=_constraint(
        None, thresh=_any(95.0), **_numbers(scale=1.0), max_shift=_or_null(_NUMBER, 10.0)
    ),
    obja_thresh=_constraint(None, **_numbers(relax=0.0), thresh=_any((0.96, 1.04))),
    objp_postiv=_constraint(None, **_numbers(relax=0.0), mode=_any("clip_neg")),
    pos_recenter=_constraint(1, **_numbers(relax=0.0)),
    tilt_smooth=_constraint(None, **_numbers(std=2.0)),
)

RECON: Rows = _fixed(
    NITER=Row(200, _WHOLE),
    INDICES_MODE=_rows(mode=_any("full"), subscan_slow=_or_null(_WHOLE), subscan_fast=_or_null(_WHOLE)),
    BATCH_SIZE=_rows(size=Row(32, _WHOLE), grad_accumulation=Row(1, _WHOLE)),
    GROUP_MODE=Row("random", _WORD),
    SAVE_ITERS=_or_null(_WHOLE, 10),
    output_dir=Row("output/", _WORD),
    recon_dir_affixes=_or_null(_LIST, ("default",)),
    prefix_time=_any("date"),
    prefix=_or_null(_WORD, ""),
    postfix=_or_null(_WORD, ""),
    save_result=_or_null(_LIST, ("model", "objp")),
    result_modes=_rows(obj_dim=Row((2, 3, 4), _LIST), FOV=Row(("crop",), _LIST), bit=Row(("8",), _LIST)),
    selected_figs=_or_null(_LIST, ("convergence", "forward", "probe_r_amp", "pos")),
    copy_params=Row(True, _BOOL),
    compiler_configs=_rows_or_null(
        enable=Row(False, Either((_BOOL, Choice(("auto",))))),
        fullgraph=Row(False, _BOOL),
        dynamic=_any(),
        backend=Row("inductor", _WORD),
        mode=_any("default"),
        options=_any(),
    ),
    convergence_monitor=_rows_or_null(
        tensors=Row(("obja", "objp", "probe", "probe_pos_shifts"), _LIST),
        every_n_iters=_or_null(_WHOLE),
        percentile_range=Row((15, 85), _LIST),
    ),
    if_quiet=_any(),
)

GROUPS: Mapping[str, Rows] = _fixed(
    init_params=INIT,
    hypertune_params=HYPERTUNE,
    model_params=MODEL,
    loss_params=LOSS,
    constraint_params=CONSTRAINT,
    recon_params=RECON,
)
"""The six groups of a parameter file."""

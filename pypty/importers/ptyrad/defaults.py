"""Every key of PtyRAD's parameter files with PtyRAD's default, which is not always ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

REQUIRED = (
    "probe_kv",
    "probe_conv_angle",
    "meas_Npix",
    "pos_N_scan_slow",
    "pos_N_scan_fast",
    "pos_scan_step_size",
    "obj_Nlayer",
    "obj_slice_thickness",
    "meas_params",
)
XRAY = ("beam_kev", "probe_dRn", "probe_Rn", "probe_D_H", "probe_D_FZP", "probe_Ls")
OBJECT_TYPES = ("both", "amplitude", "phase")


def _fixed(**entries: Any) -> Mapping[str, Any]:
    return MappingProxyType(entries)


INIT = _fixed(
    random_seed=None,
    probe_illum_type="electron",
    **dict.fromkeys((*REQUIRED, *XRAY)),
    probe_aberrations=_fixed(),
    pos_N_scans=None,
    meas_calibration=_fixed(mode="fitRBF", value=None),
    probe_pmode_max=4,
    probe_pmode_init_pows=(0.02,),
    obj_omode_max=1,
    obj_omode_init_occu=_fixed(occu_type="uniform", init_occu=None),
    simu_Npix=None,
    simu_match_mode=None,
    meas_permute=None,
    meas_reshape=None,
    meas_flipT=None,
    meas_crop=None,
    meas_remove_neg_values=_fixed(mode="clip_neg", value=None, force=False),
    meas_normalization=_fixed(mode="max_at_one", value=None),
    meas_pad=None,
    meas_resample=None,
    meas_add_source_size=None,
    meas_add_detector_blur=None,
    meas_add_poisson_noise=None,
    meas_export=None,
    probe_permute=None,
    probe_z_shift=None,
    probe_normalization=_fixed(mode="mean_total_ints", value=None),
    pos_scan_flipT=None,
    pos_scan_affine=None,
    pos_scan_rand_std=0.15,
    obj_z_crop=None,
    obj_z_pad=None,
    obj_z_resample=None,
    meas_source="file",
    probe_source="simu",
    probe_params=None,
    pos_source="simu",
    pos_params=None,
    obj_source="simu",
    obj_params=None,
    tilt_source="simu",
    tilt_params=_fixed(tilt_type="all", init_tilts=((0.0, 0.0),)),
)

INSIDE = _fixed(
    meas_calibration=INIT["meas_calibration"],
    obj_omode_init_occu=INIT["obj_omode_init_occu"],
    meas_remove_neg_values=INIT["meas_remove_neg_values"],
    meas_normalization=INIT["meas_normalization"],
    meas_pad=_fixed(mode="on_the_fly", padding_type="power", target_Npix=256, value=0.0, threshold=70.0),
    meas_resample=_fixed(mode="on_the_fly", scale_factors=(2.0, 2.0)),
    meas_add_poisson_noise=_fixed(unit=None, value=None),
    meas_export=_fixed(
        file_dir=None,
        file_name="ptyrad_init_meas",
        file_format="hdf5",
        output_shape=None,
        append_shape=True,
    ),
    probe_normalization=INIT["probe_normalization"],
    obj_z_pad=_fixed(pad_layers=(0, 0), pad_types=("vacuum", "vacuum")),
    obj_z_resample=_fixed(mode=None, value=None),
)
"""Entries of init_params that are mappings, and what is in them; those of files take what else they like."""

TUNED = (
    "optimizer",
    "batch_size",
    *("plr", "oalr", "oplr", "slr", "tlr", "dzlr"),
    *("dx", "pmode_max", "conv_angle", "z_shift", "Nlayer", "dz"),
    *("C10", "C12", "C21", "C23", "C30", "C32", "C34", "C41", "C43", "C45", "C50", "C52", "C54", "C56"),
    *("scale", "asymmetry", "rotation", "shear", "tilt_y", "tilt_x"),
    *("defocus", "c3", "c5"),
)
HYPERTUNE = _fixed(
    if_hypertune=False,
    verbosity="WARNING",
    collate_results=True,
    append_params=True,
    n_trials=5,
    timeout=None,
    sampler_params=_fixed(
        name="TPESampler", configs=_fixed(multivariate=True, group=True, constant_liar=True)
    ),
    pruner_params=_fixed(name="HyperbandPruner", configs=_fixed(min_resource=5, reduction_factor=2)),
    storage_path="sqlite:///hypertune.sqlite3",
    study_name="study",
    error_metric="loss",
    tune_params=_fixed(**dict.fromkeys(TUNED)),
)

UPDATES = _fixed(
    obja=_fixed(start_iter=1, lr=5e-4, end_iter=None),
    objp=_fixed(start_iter=1, lr=5e-4, end_iter=None),
    obj_tilts=_fixed(start_iter=None, lr=0.0, end_iter=None),
    slice_thickness=_fixed(start_iter=None, lr=0.0, end_iter=None),
    probe=_fixed(start_iter=1, lr=1e-4, end_iter=None),
    probe_pos_shifts=_fixed(start_iter=1, lr=5e-4, end_iter=None),
)
MODEL = _fixed(
    detector_blur_std=None,
    preload_data=True,
    optimizer_params=_fixed(name="Adam", configs=_fixed(), load_state=None),
    scheduler_params=None,
    update_params=UPDATES,
    obj_preblur_std=None,
)
SCHEDULER = _fixed(name=None, configs=_fixed(), load_state=None, step_unit="iter")

LOSS = _fixed(
    loss_single=_fixed(state=True, weight=1.0, dp_pow=0.5),
    loss_poissn=_fixed(state=False, weight=1.0, dp_pow=1.0, eps=1e-6),
    loss_pacbed=_fixed(state=False, weight=0.5, dp_pow=0.2),
    loss_sparse=_fixed(state=False, weight=0.1, ln_order=1),
    loss_simlar=_fixed(state=False, weight=0.1, obj_type="both", scale_factor=(1.0, 1.0, 1.0), blur_std=1.0),
)


def _constraint(start: int | None, **own: Any) -> Mapping[str, Any]:
    return _fixed(start_iter=start, step=1, end_iter=None, **own)


CONSTRAINT = _fixed(
    ortho_pmode=_constraint(1),
    probe_mask_k=_constraint(None, radius=0.22, width=0.05, power_thresh=0.95),
    probe_mask_r=_constraint(
        None, radius=0.95, order=6, power_thresh=0.95, z_range=(-500.0, 500.0), z_steps=101
    ),
    fix_probe_int=_constraint(1),
    obj_rblur=_constraint(1, obj_type="both", kernel_size=5, std=0.4),
    obj_zblur=_constraint(1, obj_type="both", kernel_size=5, std=1.0),
    kr_filter=_constraint(None, obj_type="both", radius=0.15, width=0.05),
    kz_filter=_constraint(None, obj_type="both", beta=1.0, alpha=1.0),
    kr_thresh=_constraint(None, obj_type="both", thresh=0.05),
    complex_ratio=_constraint(None, obj_type="both", alpha1=1.0, alpha2=0.0),
    mirrored_amp=_constraint(None, relax=0.1, scale=0.03, power=4.0),
    obj_z_recenter=_constraint(None, thresh=95.0, scale=1.0, max_shift=10.0),
    obja_thresh=_constraint(None, relax=0.0, thresh=(0.96, 1.04)),
    objp_postiv=_constraint(None, relax=0.0, mode="clip_neg"),
    pos_recenter=_constraint(1, relax=0.0),
    tilt_smooth=_constraint(None, std=2.0),
)

RECON = _fixed(
    NITER=200,
    INDICES_MODE=_fixed(mode="full", subscan_slow=None, subscan_fast=None),
    BATCH_SIZE=_fixed(size=32, grad_accumulation=1),
    GROUP_MODE="random",
    SAVE_ITERS=10,
    output_dir="output/",
    recon_dir_affixes=("default",),
    prefix_time="date",
    prefix="",
    postfix="",
    save_result=("model", "objp"),
    result_modes=_fixed(obj_dim=(2, 3, 4), FOV=("crop",), bit=("8",)),
    selected_figs=("convergence", "forward", "probe_r_amp", "pos"),
    copy_params=True,
    compiler_configs=_fixed(
        enable=False, fullgraph=False, dynamic=None, backend="inductor", mode="default", options=None
    ),
    convergence_monitor=_fixed(
        tensors=("obja", "objp", "probe", "probe_pos_shifts"),
        every_n_iters=None,
        percentile_range=(15, 85),
    ),
    if_quiet=None,
)

GROUPS: Mapping[str, Mapping[str, Any]] = _fixed(
    init_params=INIT,
    hypertune_params=HYPERTUNE,
    model_params=MODEL,
    loss_params=LOSS,
    constraint_params=CONSTRAINT,
    recon_params=RECON,
)
"""The six groups. An entry that is a mapping here is a mapping with these keys in the file."""

"""The types of checked parameters, for the type checker: names of fixed parameters by type, and of per-epoch values.

tests/test_settings.py compares them with the kinds of the schema.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np

# fmt: off
Unchecked = Literal[
    "dataset", "tune", "sample_name", "chemical_formula", "path_json", "rez_pixel_size_A", "rez_pixel_size_mrad",
    "conv_semiangle_mrad", "bright_threshold", "PLRotation_deg", "fov_nm", "defocus", "total_thickness", "comx",
    "comy", "aperture_shifts_x", "aperture_shifts_y",
]
GivenArray = Literal[
    "data_shift_vector", "defocus_array", "slice_distances", "positions", "aberrations_array",
]
DeviceNames = Literal[
    "devices",
]
Entries = Literal[
    "result_modes", "recon_dir_spelling", "params_dumped",
]
Words = Literal[
    "save_result", "selected_figs", "recon_dir_affixes",
]
OnOff = Literal[
    "flip_ky", "use_full_FOV", "force_pad", "load_one_by_one", "preload_to_cpu", "strip_dataset_from_params",
    "overwrite", "trust_external_links", "allow_subPixel_shift", "skip_preprocessing", "lazy_clean",
    "use_padded_intensity", "deterministic", "remove_fft_cache", "preconditioner", "shuffle_batches",
]
Whole = Literal[
    "data_pad", "data_bin", "upsample_pattern", "save_loss_log", "epoch_prev", "epoch_max",
    "save_checkpoints_every_epoch", "save_inter_checkpoints", "print_flag", "num_slices", "tilt_mode",
    "extra_space_on_side_px", "seed", "stop_patience", "n_mc_samples", "save_iters",
]
Real = Literal[
    "data_multiplier", "acc_voltage", "pixel_size_x_A", "pixel_size_y_A", "alpha_near_field", "Cs", "scan_step_A",
    "damping_cutoff_multislice", "smooth_rolloff", "update_extra_cut", "memory_saturation", "obj_preblur_std",
    "rank_timeout_s",
    "data_resample", "data_pad_value", "data_pad_threshold", "detector_gain", "readout_noise", "detector_blur_std",
    "reduce_factor", "optimism", "min_step", "validation_fraction", "stop_tolerance", "extra_probe_defocus",
    "free_pixels", "estimate_aperture_based_on_binary", "focal_spread", "spatial_coh_xy",
]
Word = Literal[
    "data_path", "data_key", "output_folder", "recon_type", "default_dtype", "backend", "fft_library", "executor",
    "data_pad_fill", "detector_blur_edge", "algorithm", "group_mode", "indices_mode", "loss_scale", "prefix",
    "postfix", "scan_order", "copy_params", "load_optimizer_state", "load_scheduler_state",
]
ArrayOrNone = Literal[
    "masks", "mean_pattern", "scan_size", "obj", "positions_correction", "tilts", "beam_current", "detector_gains",
    "aberration_marker", "probe_marker", "obj_mode_weights", "indices_shape", "aberrations",
    "n_hermite_probe_modes", "defocus_spread_modes", "beam_ctf", "missing_patterns",
]
DTypeOrNone = Literal[
    "force_dataset_dtype",
]
EntriesOrNone = Literal[
    "lr_scheduler", "convergence_monitor",
]
TableOrNone = Literal[
    "loss_terms",
]
OnOffOrWord = Literal[
    "recompute_slices", "prefix_time", "resume", "verdict",
]
WholeOrNone = Literal[
    "n_threads", "simu_Npix", "max_count", "mc_n_modes",
]
WholeOrWord = Literal[
    "compute_batch", "warmup_epochs",
]
RealOrNone = Literal[
    "edge_slice_thickness", "spatial_coh_x_A", "spatial_coh_y_A",
]
WordOrNone = Literal[
    "phase_plate_in_h5", "simu_match_mode", "data_normalization",
]
ArrayOrWordOrNone = Literal[
    "detector_mask", "probe",
]
ArrayOrRealOrNone = Literal[
    "aperture_mask", "static_background", "probe_constraint_mask",
]
# fmt: on
SigmaPair: TypeAlias = tuple[tuple[float, float] | None, tuple[float, float] | None]
"""The value of ``fancy_sigma``: (phase, absorption)."""


class EpochValues(TypedDict):
    """Every per-epoch parameter at an epoch."""

    sequence: np.ndarray | None
    data_simulation_flag: bool | str
    data_simulation_exitwave: bool
    puzzle_positions: bool
    propmethod: str
    dynamically_resize_yx_object: float
    smart_memory: bool
    loss_weight: float | str
    hist_length: int | float
    update_step_bfgs: float
    wolfe_c1_constant: float
    wolfe_c2_constant: float
    reset_history_flag: bool
    update_obj: bool
    update_probe: bool
    update_probe_pos: bool
    positions_parametrization: str
    update_slice_distances: bool
    update_tilts: bool
    update_beam_current: bool
    update_aberrations_array: bool
    update_static_background: bool
    update_detector_blur_std: bool
    update_detector_gains: bool
    phase_only_obj: bool
    obj_parametrization: str
    tune_only_probe_phase: bool
    tune_only_probe_abs: bool
    freeze_stuck_blocks: bool
    optimizer: str
    optimizer_options: dict[str, Any]
    learning_rates: dict[str, dict[str, Any]]
    grad_accumulation: int
    lazy_moments: bool
    batch_size: int | str
    fast_axis_reg_weight_positions: float
    slow_axis_reg_weight_positions: float
    deformation_reg_weight_positions: float
    fast_axis_reg_weight_tilts: float
    slow_axis_reg_weight_tilts: float
    deformation_reg_weight_tilts: float
    phase_norm_weight: float
    abs_norm_weight: float
    probe_reg_constraint_weight: float
    window_weight: float
    window: np.ndarray | None
    atv_weight: float
    atv_q: float
    atv_p: float
    mixed_variance_weight: float
    mixed_variance_sigma: float
    wedge_mu: float
    beta_wedge: float
    probe_mod_reg_weight: float
    probe_mod_tol: float
    apply_gaussian_filter: np.ndarray | float
    apply_gaussian_filter_amplitude: np.ndarray | float
    keep_probe_states_orthogonal: bool
    do_charge_flip: bool
    cf_delta_phase: float
    cf_delta_abs: float
    cf_beta_phase: float
    cf_beta_abs: float
    fancy_sigma: SigmaPair | None
    restart_from_vacuum: bool
    reset_positions: bool
    constraints: dict[str, dict[str, Any]]

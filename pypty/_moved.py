"""Names of PyPty 2.2 that are somewhere else here, and the places where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pypty.errors import MovedError

_EVALUATE = "pypty.evaluate(params), which returns the loss and all gradients"
_WEIGHT = "set {0} and run, or pypty.evaluate(params);  pypty explain {0}  describes it"

MOVED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "utils": MappingProxyType(
            {
                "apply_probe_modulation": "set aberrations, extra_probe_defocus, ...; or pypty.optics.probes",
                "create_probe_from_nothing": "leave probe out, or pypty.initialize.get_focussed_probe_from_vacscan",
                "create_static_background_from_nothing": "set static_background to a number",
                "prepare_main_loop_params": "pypty.check and pypty.plan",
                "preprocess_dataset": "set flip_ky, data_shift_vector, data_bin and data_pad",
                "optimize_2d_block_shifts": "position_puzzling",
                "segment_regions_from_image": "position_puzzling",
                "interpolate_label0_points": "position_puzzling",
                "intorplate_puzzled_obj": "set puzzle_positions; or pypty.constraints.scan.warped",
                "detect_changed_params": "a run detects edits of params.yaml itself (change_params)",
                "get_steps_epoch": "set update_step_bfgs to a function of the epoch",
                "get_cupy_memory_usage": "pypty.plan(params), and pypty doctor",
            }
        ),
        "objective": MappingProxyType(
            {
                "loss_and_direction": _EVALUATE,
                "charge_flip": "pypty.constraints.object.charge_flip, or set do_charge_flip",
                "make_states_orthogonal": "pypty.constraints.probe, or set keep_probe_states_orthogonal",
                "make_basis_orthogonal": "pypty.constraints.probe.orthogonal_rotation",
                "compute_fast_axis_constraint_on_grid": _WEIGHT.format("fast_axis_reg_weight_positions"),
                "compute_slow_axis_constraint_on_grid": _WEIGHT.format("slow_axis_reg_weight_positions"),
                "compute_deformation_constraint_on_grid": _WEIGHT.format("deformation_reg_weight_positions"),
                "compute_full_l1_constraint": _WEIGHT.format("phase_norm_weight"),
                "compute_window_constraint": _WEIGHT.format("window_weight"),
                "compute_probe_constraint": _WEIGHT.format("probe_reg_constraint_weight"),
                "probe_modulation_constraint": _WEIGHT.format("probe_mod_reg_weight"),
                "compute_atv_constraint": _WEIGHT.format("atv_weight"),
                "compute_missing_wedge_constraint": _WEIGHT.format("wedge_mu"),
                "compute_mixed_object_variance_constraint": _WEIGHT.format("mixed_variance_weight"),
            }
        ),
        "multislice_core": MappingProxyType(
            {
                "multislice": "pypty.simulate(params, exit_waves=True)",
                "multislice_grads": _EVALUATE,
                "scatteradd": "pypty.backend.kernels.scatter_add_patches",
            }
        ),
        "iterative": MappingProxyType(
            {
                "bfgs_update": "pypty.run(params) with epoch_max=1, or pypty.optimize.lbfgs",
                "reset_bfgs_history": "set reset_history_flag; runs share no state",
            }
        ),
        "fft": MappingProxyType(
            {
                **{
                    name: f"scipy.fft.{name}"
                    for name in ("fft2", "ifft2", "fftn", "ifftn", "fftshift", "ifftshift", "fftfreq")
                },
                "shift_fft2": "scipy.fft.fftshift(scipy.fft.fft2(...), axes=...)",
                "ifft2_ishift": "scipy.fft.ifft2(scipy.fft.ifftshift(..., axes=...))",
                "shift_fftn": "scipy.fft.fftshift(scipy.fft.fftn(...))",
                "ifftn_ishift": "scipy.fft.ifftn(scipy.fft.ifftshift(...))",
            }
        ),
    }
)
"""By module of PyPty 2.2 and name: what to use instead."""
PUBLIC = ("initialize", "dpc", "tcbf", "direct", "se", "vaa", "utils")
"""Modules whose names PyPty 2.2 also offers as ``pypty.NAME``; of two that have the same name, the earlier holds."""


def moved_to(name: str) -> str:
    """What to use instead of ``pypty.NAME`` of PyPty 2.2; "" where nothing is to be said."""
    return next((names[name] for names in MOVED.values() if name in names), "")


def answers(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module: names of PyPty 2.2 raise :class:`MovedError`, which says where they are now.

    An ImportError, as Python drops the message of an AttributeError in ``from MODULE import NAME``.
    """

    def __getattr__(name: str) -> Any:
        if name in MOVED[module]:
            raise MovedError(
                f"pypty.{module}.{name} of PyPty 2.2 is not offered; instead: {MOVED[module][name]}"
            )
        raise AttributeError(f"module 'pypty.{module}' has no attribute {name!r}")

    return __getattr__

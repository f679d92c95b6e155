"""Building blocks for scripts, with PyPty's names and the conventions of this package.

Functions that depend on the global state of PyPty 2.2 are left out; the error message for each of them names its
replacement.
"""

from __future__ import annotations

from pypty._moved import answers
from pypty.compat.utils.arrays import (
    complex_grad_to_mag_grad,
    complex_grad_to_phase_abs_grad,
    complex_grad_to_phase_grad,
    downsample_something,
    downsample_something_3d,
    resample_slices,
    upsample_something,
    upsample_something_3d,
)
from pypty.compat.utils.epochs import (
    convert_to_string,
    get_value_for_epoch,
    lambda_to_string,
    string_params_to_usefull_params,
    string_to_lambda,
)
from pypty.compat.utils.files import (
    change_params,
    convert_to_nxs,
    delete_dataset_from_params,
    load_nexus_params,
    load_params,
    save_params,
)
from pypty.compat.utils.probes import (
    apply_defocus_probe,
    generate_hermite_modes,
    padfft,
    padprobetodatafarfield,
    padprobetodatanearfield,
    probe_modes_from_spreads,
    shift_probe_fourier,
)
from pypty.compat.utils.running import (
    get_compute_batch,
    phase_cross_corr_align,
    position_puzzling,
    wolfe_1,
    wolfe_2,
)
from pypty.compat.utils.spectra import (
    convert_num_to_nmab,
    create_spatial_frequencies,
    fourier_clean,
    fourier_clean_3d,
    get_ctf,
    get_ctf_derivatives,
    get_ctf_gradient_rotation_angle,
    get_ctf_matrix,
    get_window,
    nmab_to_strings,
)

__all__ = [
    "apply_defocus_probe",
    "change_params",
    "complex_grad_to_mag_grad",
    "complex_grad_to_phase_abs_grad",
    "complex_grad_to_phase_grad",
    "convert_num_to_nmab",
    "convert_to_nxs",
    "convert_to_string",
    "create_spatial_frequencies",
    "delete_dataset_from_params",
    "downsample_something",
    "downsample_something_3d",
    "fourier_clean",
    "fourier_clean_3d",
    "generate_hermite_modes",
    "get_compute_batch",
    "get_ctf",
    "get_ctf_derivatives",
    "get_ctf_gradient_rotation_angle",
    "get_ctf_matrix",
    "get_value_for_epoch",
    "get_window",
    "lambda_to_string",
    "load_nexus_params",
    "load_params",
    "nmab_to_strings",
    "padfft",
    "padprobetodatafarfield",
    "padprobetodatanearfield",
    "phase_cross_corr_align",
    "position_puzzling",
    "probe_modes_from_spreads",
    "resample_slices",
    "save_params",
    "shift_probe_fourier",
    "string_params_to_usefull_params",
    "string_to_lambda",
    "upsample_something",
    "upsample_something_3d",
    "wolfe_1",
    "wolfe_2",
]


__getattr__ = answers("utils")

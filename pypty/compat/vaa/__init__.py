"""Analysis and figures of logs, probes, positions and waves, with the names and arguments of PyPty 2.2.

Plotting functions return the Figure (PyPty shows it), so that a script can save it.
"""

from pypty.compat.vaa.aberration_fit import (
    fit_aberrations_to_wave,
)
from pypty.compat.vaa.scan import (
    crop_ptycho_object_to_stem_roi,
    get_affine_tranform,
    get_affine_transform,
    get_step_angle_scan_grid,
    mesh_model_positions,
    mesh_objective_positions,
)
from pypty.compat.vaa.show import (
    add_scalebar_ax,
    complex_array_to_rgb,
    complex_pca,
    outputlog_plots,
    plot_complex_colorwheel,
    plot_complex_modes,
    plot_modes,
    radial_average,
)

__all__ = [
    "add_scalebar_ax",
    "complex_array_to_rgb",
    "complex_pca",
    "crop_ptycho_object_to_stem_roi",
    "fit_aberrations_to_wave",
    "get_affine_tranform",
    "get_affine_transform",
    "get_step_angle_scan_grid",
    "mesh_model_positions",
    "mesh_objective_positions",
    "outputlog_plots",
    "plot_complex_colorwheel",
    "plot_complex_modes",
    "plot_modes",
    "radial_average",
]

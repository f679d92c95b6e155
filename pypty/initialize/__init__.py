"""From an experiment to the parameters of a reconstruction, with the function names of PyPty 2.2.

Arguments are never modified: every function that returns parameters returns a new dict.
"""

from pypty.initialize.beam import (
    append_aperture_to_params,
    conjugate_beam,
    get_focussed_probe_from_vacscan,
    tiltbeamtodata,
)
from pypty.initialize.experiment_params import append_exp_params
from pypty.initialize.grid import (
    get_grid_for_upsampled_image,
    get_offset,
    get_positions_pixel_size,
    rotate_scan_grid,
)
from pypty.initialize.object_from_scan import get_ptycho_obj_from_scan
from pypty.initialize.parts import (
    create_aberrations_chunks,
    create_probe_marker_chunks,
    create_sequence_from_points,
    create_sub_sequence,
)
from pypty.initialize.pypty_data import create_pypty_data
from pypty.initialize.restart import prepare_restart
from pypty.initialize.tilt import get_approx_beam_tilt

__all__ = [
    "append_aperture_to_params",
    "append_exp_params",
    "conjugate_beam",
    "create_aberrations_chunks",
    "create_probe_marker_chunks",
    "create_pypty_data",
    "create_sequence_from_points",
    "create_sub_sequence",
    "get_approx_beam_tilt",
    "get_focussed_probe_from_vacscan",
    "get_grid_for_upsampled_image",
    "get_offset",
    "get_positions_pixel_size",
    "get_ptycho_obj_from_scan",
    "prepare_restart",
    "rotate_scan_grid",
    "tiltbeamtodata",
]

"""Parameters of result files, figures, folder names and tuning."""

from __future__ import annotations

from pypty.params.kinds import Anything, Either, Flag, Text
from pypty.params.nested import Field, Record, Words
from pypty.params.parameter import RECORDED, Parameter
from pypty.params.schema.numbers import NATURAL

SAVED = ("model", "obja", "objp", "probe", "probe_prop", "optim_state")
FIGURES = ("convergence", "convergence_full", "convergence_dynamic", "loss", "learning_rates", "forward",
           "probe_r_amp", "probe_k_amp", "probe_k_phase", "pos", "tilt", "tilt_avg", "slice_thickness",
           "all")  # fmt: skip
AFFIXES = ("minimal", "default", "all", "indices", "meas", "batch", "pmode", "omode", "nlayer", "optimizer",
           "scheduler", "start_iter", "lr", "model", "constraint", "loss", "conv_angle", "aberrations", "z_shift",
           "dx", "affine", "tilt")  # fmt: skip

# fmt: off
RESULT_MODES = Record((
    Field("obj_dim", (2, 3, 4), Words((2, 3, 4)), "", "2: summed, 3: slices or modes, 4: both"),
    Field("FOV", ("crop",), Words(("crop", "full")), "", "the scanned area, or the whole object"),
    Field("bit", ("8",), Words(("raw", "32", "16", "8")), "", "raw: values; 32: from 0 to 1; 16, 8: scaled whole "
          "numbers"),
))

RESULTS = (
    Parameter("save_iters", 0, NATURAL, "epochs", "Every so many epochs write what save_result and selected_figs "
              "name; 0 = never.", when="output_folder is given"),
    Parameter("save_result", ("model", "objp"), Words(SAVED), "", "Which results: model (HDF5 with everything and "
              "where it comes from), images of obja, objp, probe, probe_prop, and the optimiser's state in the model.",
              when="save_iters is not 0"),
    Parameter("result_modes", {}, RESULT_MODES, "", "Which images (TIFF, calibrated): dimensions, field of view, "
              "depth.", when="save_iters is not 0"),
    Parameter("selected_figs", ("convergence", "forward", "probe_r_amp", "pos"), Words(FIGURES), "", "Which figures.",
              when="save_iters is not 0"),
    Parameter("recon_dir_affixes", (), Words(AFFIXES), "", "Results go into a folder inside output_folder that is "
              "named after these settings; none = output_folder itself.", when="output_folder is given"),
    Parameter("prefix_time", False, Either((Flag(), Text())), "", "That name begins with the date (True or 'date'), "
              "'time', 'datetime', or a format that begins with %.", when="output_folder is given"),
    Parameter("prefix", "", Text(), "", "Put before that name.", when="output_folder is given"),
    Parameter("postfix", "", Text(), "", "Put after that name.", when="output_folder is given"),
    Parameter("tune", None, Anything(), "", "What pypty tune searches, and how; runs ignore it.", status=RECORDED),
)

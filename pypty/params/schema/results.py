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
    Field("FOV", ("crop",), Words(("crop", "full")), "", "crop: the scanned area; full: the whole object"),
    Field("bit", ("8",), Words(("raw", "32", "16", "8")), "", "raw: unscaled values; 32: scaled to 0...1; 16, 8: "
          "scaled integers"),
))

RESULTS = (
    Parameter("save_iters", 0, NATURAL, "epochs", "Interval at which save_result and selected_figs are written; 0 = "
              "never.", when="output_folder is given"),
    Parameter("save_result", ("model", "objp"), Words(SAVED), "", "Results to write: model (HDF5 with all arrays and "
              "their provenance), images of obja, objp, probe, probe_prop, and optim_state (the optimiser's state, in "
              "the model file).", when="save_iters is not 0"),
    Parameter("result_modes", {}, RESULT_MODES, "", "Images to write (TIFF, calibrated): dimensions, field of view, "
              "bit depth.", when="save_iters is not 0"),
    Parameter("selected_figs", ("convergence", "forward", "probe_r_amp", "pos"), Words(FIGURES), "", "Figures to "
              "write.", when="save_iters is not 0"),
    Parameter("recon_dir_affixes", (), Words(AFFIXES), "", "Results go into a folder inside output_folder that is "
              "named after these settings; none = output_folder itself.", when="output_folder is given"),
    Parameter("prefix_time", False, Either((Flag(), Text())), "", "That name begins with the date (True or 'date'), "
              "'time', 'datetime', or a format that begins with %.", when="output_folder is given"),
    Parameter("prefix", "", Text(), "", "Text before that name.", when="output_folder is given"),
    Parameter("postfix", "", Text(), "", "Text after that name.", when="output_folder is given"),
    Parameter("tune", None, Anything(), "", "What pypty tune searches, and how; runs ignore it.", status=RECORDED),
)

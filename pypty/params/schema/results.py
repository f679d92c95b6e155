"""Parameters of result files, figures, folder names and tuning."""

from __future__ import annotations

from pypty.params.kinds import Anything, Choice, Either, FilePath, Flag, Text
from pypty.params.nested import ByName, Entries, Field, ListOf, Record, Words
from pypty.params.parameter import RECORDED, Parameter
from pypty.params.schema.numbers import NATURAL

SAVED = ("model", "obja", "objp", "probe", "probe_prop", "optim_state", "scheduler_state")
FIGURES = ("convergence", "convergence_full", "convergence_dynamic", "loss", "learning_rates", "forward",
           "probe_r_amp", "probe_k_amp", "probe_k_phase", "pos", "tilt", "tilt_avg", "slice_thickness", "fit",
           "all")  # fmt: skip
AFFIXES = ("minimal", "default", "all", "indices", "meas", "batch", "pmode", "omode", "nlayer", "optimizer",
           "scheduler", "start_iter", "lr", "model", "constraint", "loss", "conv_angle", "aberrations", "z_shift",
           "dx", "affine", "tilt")  # fmt: skip
RESPELT = ("meas", "flips", "batch", "optimizer", "scheduler", "start_iter", "lr", "model", "constraint", "loss",
           "conv_angle", "aberrations", "z_shift", "affine", "tilt")  # fmt: skip
"""Tags of folder names whose text another program may write otherwise; flips are part of meas."""

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
              "their provenance), images of obja, objp, probe, probe_prop, and optim_state, scheduler_state (in the "
              "model file: what load_optimizer_state and load_scheduler_state read).", when="save_iters is not 0"),
    Parameter("result_modes", {}, RESULT_MODES, "", "Images to write (TIFF, calibrated): dimensions, field of view, "
              "bit depth.", when="save_iters is not 0"),
    Parameter("selected_figs", ("convergence", "forward", "probe_r_amp", "pos"), Words(FIGURES), "", "Figures to "
              "write.", when="save_iters is not 0"),
    Parameter("verdict", "fit", Either((Choice(("fit", "full", "none")), Flag())), "", "At the end of a run: fit (or "
              "True) = one pass over the patterns, which tells how well the model describes them, and what is wrong if "
              "it does not (Result.verdict, docs/trust.md); full = also, where positions were fixed, a trial that says "
              "whether they should be refined (pypty.position_trial); none (or False) = no pass."),
    Parameter("recon_dir_affixes", (), Words(AFFIXES), "", "Results go into a folder inside output_folder that is "
              "named after these settings; none = output_folder itself.", when="output_folder is given"),
    Parameter("prefix_time", False, Either((Flag(), Text())), "", "That name begins with the date (True or 'date'), "
              "'time', 'datetime', or a format that begins with %.", when="output_folder is given"),
    Parameter("prefix", "", Text(), "", "Text before that name.", when="output_folder is given"),
    Parameter("postfix", "", Text(), "", "Text after that name.", when="output_folder is given"),
    Parameter("recon_dir_spelling", {}, ByName(RESPELT, ListOf(Text(), 2)), "", "Other spelling of parts of that name, "
              "by tag: [the part that the settings give, the text to write instead]; a part that is not the first of "
              "these is written as it is. Set by parameter files of PtyRAD, for their units.",
              when="recon_dir_affixes are given"),
    Parameter("copy_params", "", FilePath(), "", "Parameter file of another program, of which a copy is written into "
              "the folder of the results.", when="output_folder is given"),
    Parameter("params_dumped", {}, Entries(), "", "Parameters of another program that are written into the folder of "
              "the results, as params_dumped.yaml.", when="output_folder is given"),
    Parameter("load_optimizer_state", "", FilePath(), "", "Model file of PyPty (written with optim_state) or of "
              "PtyRAD, with whose moments a first-order method begins.", when="optimizer is a first-order method",
              shapes_start=True),
    Parameter("load_scheduler_state", "", FilePath(), "", "Model file of PyPty (written with scheduler_state) or of "
              "PtyRAD, after whose last step the schedule of the learning rates goes on.", when="lr_scheduler is given",
              shapes_start=True),
    Parameter("tune", None, Anything(), "", "What pypty tune searches, and how; runs ignore it.", status=RECORDED),
)

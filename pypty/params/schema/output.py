"""Parameters of the output folder and of restarts."""

from __future__ import annotations

from pypty.params.kinds import Choice, Either, FilePath, Flag, Number
from pypty.params.parameter import Parameter
from pypty.params.schema.numbers import NATURAL
from pypty.params.special_kinds import NpyPath

# One row per parameter; the formatter would make it three times as long.
# fmt: off
_INTERVAL = Number(0, 2**40, integer=True, boolean=True)
OUTPUT = (
    Parameter("output_folder", "", FilePath(), "", "Folder for results; '' = no files are written."),
    Parameter("strip_dataset_from_params", True, Flag(), "", "False: an in-memory dataset is saved beside "
              "params.yaml, so that the folder can be resumed without passing the data again."),
    Parameter("save_loss_log", 1, Number(0, 2, integer=True, boolean=True), "",
              "loss.csv: 0 none, 1 one column for all regularisers, 2 one column for each."),
    Parameter("epoch_prev", 0, NATURAL, "epochs", "Index of the first epoch: the number of epochs done by the earlier "
              "run whose arrays are given."),
    Parameter("epoch_max", 200, NATURAL, "epochs", "The run ends when this epoch index is reached."),
    Parameter("save_checkpoints_every_epoch", 0, _INTERVAL, "epochs",
              "Interval of numbered files checkpoint_*_epoch_<k>.npy; 0 = never."),
    Parameter("save_inter_checkpoints", 1, _INTERVAL, "epochs",
              "Interval at which co.npy, cp.npy, ... and resume.h5 are updated; 0 = only at the end."),
    Parameter("print_flag", 1, Number(0, 4, integer=True, boolean=True), "",
              "0 silent, 1 progress bar, 2 a line per epoch, 3 also each line-search step, 4 also each regulariser."),
    Parameter("resume", False, Either((Flag(), Choice(("auto",)))), "", "Continue exactly where resume.h5 in "
              "output_folder ends; 'auto': continue if there is such a file, begin otherwise (for requeued jobs)."),
    Parameter("overwrite", False, Flag(), "", "Replace a result in output_folder. It is moved aside first, and deleted "
              "once the new run has a full epoch."),
    Parameter("data_simulation_flag", False, Either((Flag(none_is_off=True), NpyPath())), "",
              "Path of a .npy file for the patterns of the model after an epoch; where it is True at some epochs, "
              "simulated_patterns.npy in output_folder. True throughout: no data are loaded, and the patterns of the "
              "start are written without any epoch, as pypty.simulate(params) returns them.", per_epoch=True),
    Parameter("data_simulation_exitwave", False, Flag(none_is_off=True), "", "Exit waves instead of patterns.",
              per_epoch=True, when="data_simulation_flag is set"),
)

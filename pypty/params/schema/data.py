"""Parameters of the measured patterns."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Choice, DType, Either, FilePath, Flag, Text, optional
from pypty.params.parameter import NO_EFFECT, Parameter
from pypty.params.schema.numbers import NATURAL, PATTERN, POSITIVE, POSITIVE_WHOLE

# One row per parameter; the formatter would make it three times as long.
# fmt: off
DATA = (
    Parameter("data_path", "", FilePath(), "",
              "File with the measured patterns: .h5/.hdf5 or .npy, 3-D (N, ky, kx) or 4-D (sy, sx, ky, kx).",
              when="dataset is not given"),
    Parameter("dataset", None, optional(ArrayOf((("N", "ky", "kx"), ("sy", "sx", "ky", "kx"), ("N", "D")), lazy=True)),
              "counts", "The measured patterns as an array in memory, zero frequency at index n//2 (near field: "
              "images); (N, D) with masks. Takes precedence over data_path."),
    Parameter("data_key", "data", Text(), "", "Name of the data set inside an HDF5 file.",
              when="data_path is an HDF5 file"),
    Parameter("trust_external_links", False, Flag(strict=True), "", "True: links, virtual data sets and raw storage in "
              "the HDF5 files of data_path and phase_plate_in_h5 may point outside of the folder of that file.",
              when="data_path or phase_plate_in_h5 is an HDF5 file"),
    Parameter("detector_mask", None, optional(Either((ArrayOf((("ky", "kx"), ("N", "ky", "kx"))), Choice(("nan",))))),
              "", "Weight of each detector pixel in the loss, 0 (ignored: dead pixel, beam stop) to 1: one array of "
              "the measured pattern's shape, or one per pattern. 'nan' gives weight 0 to every pixel that is NaN in "
              "the data.",
              changes_loss=True),
    Parameter("masks", None, optional(ArrayOf((("D", "ky", "kx"),))), "",
              "Virtual detectors: the data are (N, D) sums of the pattern over these masks; for the algorithms "
              "*_compressed.", changes_loss=True),
    Parameter("data_multiplier", 1.0, POSITIVE, "", "Factor on all counts.", changes_loss=True),
    Parameter("data_pad", 0, NATURAL, "px", "Width of the zero padding on each side of every pattern, after binning; "
              "makes pixels in real space finer.", changes_loss=True),
    Parameter("data_bin", 1, POSITIVE_WHOLE, "px", "Detector pixels are summed in blocks of data_bin x data_bin; "
              "incomplete blocks at the far edges are left out.", changes_loss=True),
    Parameter("flip_ky", False, Flag(), "", "Reverse the ky axis of every pattern.", changes_loss=True),
    Parameter("data_shift_vector", (0, 0), ArrayOf((("2",),), integer=True), "px",
              "Shift (ky, kx) of every pattern before binning; the edge that wraps around is set to zero.",
              changes_loss=True),
    Parameter("upsample_pattern", 1, POSITIVE_WHOLE, "", "Model pixels per detector pixel and axis: "
              "a larger window for a probe that does not fit into 1/(detector pixel). data_pad counts model pixels.",
              changes_loss=True),
    Parameter("sequence", None, optional(ArrayOf((("n",),), integer=True, mask=True)), "",
              "Indices of the patterns to use, or a boolean for each pattern; None = all. May be a function "
              "of the epoch.", per_epoch=True),
    Parameter("use_full_FOV", True, Flag(), "", "False: the object covers only the patterns of the sequence at the "
              "first epoch.", when="sequence is given and skip_preprocessing is False"),
    Parameter("force_dataset_dtype", None, optional(DType()), "",
              "Cast the data to this dtype when reading; None keeps the dtype of the file until the loss.",
              changes_loss=True),
    Parameter("force_pad", False, Flag(), "", "Padding is always virtual here.", status=NO_EFFECT),
    Parameter("load_one_by_one", True, Flag(), "", "True: patterns are kept in memory if they fit, otherwise read "
              "when needed. False: always kept in memory; an error if they do not fit."),
    Parameter("preload_to_cpu", False, Flag(), "", "True: the same as load_one_by_one=False."),
    Parameter("mean_pattern", None, optional(PATTERN), "counts",
              "Mean measured pattern, used to build the starting probe instead of the mean of the data.",
              when="probe is None"),
)

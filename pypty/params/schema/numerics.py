"""Parameters of the computation: propagation, precision, memory, device."""

from __future__ import annotations

from pypty.params.kinds import Choice, Either, Flag, Number, optional
from pypty.params.parameter import NO_EFFECT, Parameter
from pypty.params.schema.numbers import NATURAL, NON_NEGATIVE, POSITIVE_WHOLE
from pypty.params.special_kinds import Device, Devices

# One row per parameter; the formatter would make it three times as long.
# fmt: off
NUMERICS = (
    Parameter("propmethod", "multislice",
              Choice(("multislice", "better_multislice", "yoshida", "angular_spectrum")), "",
              "Propagation through the specimen: multislice (Fresnel, 1st order in the slice thickness), "
              "better_multislice and yoshida (4th order; a propagation follows every slice, including the last), "
              "angular_spectrum (multislice without the small-angle approximation).", per_epoch=True),
    Parameter("allow_subPixel_shift", True, Flag(), "", "False: positions are rounded to whole pixels."),
    Parameter("skip_preprocessing", False, Flag(), "", "True: positions are not shifted to start at 0, and a given "
              "probe is neither scaled to the counts nor band-limited."),
    Parameter("extra_space_on_side_px", 0, Number(0, 2**40, integer=True), "px", "Free rim around the scanned area.",
              when="skip_preprocessing is False"),
    Parameter("dynamically_resize_yx_object", 0, Number(low=0, boolean=True), "px",
              "When a position has moved this far from its crop origin, crop origins are recomputed and the object "
              "is enlarged where needed; 0 = never, True = 1 px.", per_epoch=True, when="positions are refined"),
    Parameter("damping_cutoff_multislice", 2 / 3, Number(0, 2, open_low=True), "",
              "Band limit as a fraction of the largest sampled frequency.", changes_loss=True),
    Parameter("smooth_rolloff", 0.0, NON_NEGATIVE, "",
              "Width of the soft edge of the band limit of the starting values and of every step, as a fraction of "
              "the largest frequency; must be smaller than the band limit.", changes_loss=True),
    Parameter("update_extra_cut", 0.005, NON_NEGATIVE, "", "Amount by which the band limit of object and probe is "
              "smaller than that of the waves.", when="for the object: lazy_clean is False", changes_loss=True),
    Parameter("lazy_clean", False, Flag(), "", "True: each object patch is band-limited in the model; False: the "
              "whole object is kept band-limited.", changes_loss=True),
    Parameter("use_padded_intensity", True, Flag(), "", "False: the padded rim of the model intensity is cut off "
              "instead of being compared with zeros.", when="data_pad > 0", changes_loss=True),
    Parameter("default_dtype", "auto", Choice(("auto", "double", "single")), "",
              "Precision of waves; sums and positions are always double. auto: a run computes in single precision, and "
              "goes on in double from the epoch of L-BFGS in which rounding stops its progress, if the memory allows; "
              "pypty.evaluate and pypty.simulate compute in double. On a GPU double has no split kernels (the log says "
              "what it costs on the card). (PyPty's 'half' is not offered.)"),
    Parameter("backend", "auto", Device(), "",
              "Device: auto uses a GPU if one works; gpu raises an error if none does (see  pypty doctor). numpy and "
              "cupy, the modules or their names, mean cpu and gpu."),
    Parameter("devices", "auto", Devices(), "",
              "Over what a run is distributed (pypty.run; docs/cluster.md): auto is the device of this process, or, "
              "under mpirun or srun, those of all its processes; all GPUs, a number of them, or a list of numbers "
              "or UUIDs (MIG slices, too); on the CPU a number of processes. The result is the same to rounding."),
    Parameter("rank_timeout_s", 20.0, Number(1, 1e6), "s", "A process of a distributed run that makes no progress for "
              "so long ends the run, as it hangs; batches that take long are waited for ten times as long as one of "
              "them takes.", when="the run is distributed"),
    Parameter("n_threads", None, optional(POSITIVE_WHOLE), "", "Threads on the CPU; None = the cores this process "
              "may use.", when="backend is cpu"),
    Parameter("fft_library", "auto", Choice(("auto", "fftw", "scipy")), "", "Fourier transforms on the CPU: auto uses "
              "FFTW if pyFFTW is installed (pip install 'pypty[fast]'), which is twice as fast, otherwise SciPy. FFTW "
              "chooses its plans by timing: the last digits may differ between two processes, but not in a resumed "
              "run; scipy always gives the same digits.", when="backend is cpu"),
    Parameter("executor", "auto", Choice(("auto", "fused", "stages")), "", "How waves are computed: auto uses the "
              "fastest executor that supports the model (pypty.log and Result.executor say which, and why no "
              "faster one): split kernels on a GPU, otherwise fused kernels; fused never uses split kernels; stages "
              "applies one effect after the other: the reference implementation, and slower."),
    Parameter("deterministic", False, Flag(), "", "True: sums on a GPU do not depend on the order of its threads, so "
              "that results repeat to the last digit; a little slower. On the CPU this is always so.",
              when="backend is gpu"),
    Parameter("recompute_slices", "auto", Either((Choice(("auto",)), Flag())), "", "True: store the waves entering "
              "every sqrt(n)-th of n slices only, and recompute the others in the backward pass: about a third more "
              "time, much less memory. auto: if memory would make the batches too small.",
              when="there are two slices or more, and the fused executor is used"),
    Parameter("compute_batch", "auto", Either((Choice(("auto",)), POSITIVE_WHOLE)), "patterns",
              "Number of patterns computed together. auto: from the memory estimate (pypty.plan)."),
    Parameter("memory_saturation", 0.7, Number(0, 1, open_low=True), "", "Fraction of the free memory to use.",
              when="compute_batch is 'auto'"),
    Parameter("smart_memory", True, Flag(), "", "Memory is always planned here.", per_epoch=True, status=NO_EFFECT),
    Parameter("remove_fft_cache", False, Flag(), "", "Plans are always kept.", status=NO_EFFECT),
    Parameter("seed", 0, NATURAL, "", "Seed of all random numbers.",
              when="static_background is a number, or mc_n_modes is given"),
)

"""Which effects a model has: read from the settings once, before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.data.plates import PhasePlateSource
from pypty.optics.grid import Grid

TILT_MODES = (
    (False, True, False),
    (False, False, True),
    (True, False, False),
    (False, True, True),
    (True, True, True),
)
"""``tilt_mode`` 0 to 4: whether the tilts before, inside and after the specimen act."""


@dataclass(frozen=True)
class NearFieldOptions:
    """A detector in a defocused image plane instead of the far field.

    Attributes
    ----------
    defocus : (1,) or (N,) Å
    Cs : Å
    alpha : illumination semi-angle, rad
    """

    defocus: np.ndarray
    Cs: float = 0.0
    alpha: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which effects are present.

    Attributes
    ----------
    grid : sampling of a window
    cutoff : band limit (``damping_cutoff_multislice``)
    subpixel : patches are, or may move, off the pixel grid
    filter_patches : band-limit each patch of the object (``lazy_clean``)
    crop : pixels of the model's rim that were not measured (``use_padded_intensity=False``)
    propagation : ``propmethod``
    tilt_mode : which tilts act; None = there are none
    probe_marker : (N,) subscan of each pattern, or None (one probe)
    aberration_marker : (N,) group of each pattern, or None (no local aberrations)
    n_aberrations : terms of ``aberrations_array``
    plates : a phase plate for every pattern, or None
    near_field : None = far field
    across : (ky, kx) model pixels per detector pixel
    masks : (D, ky, kx) virtual detectors in the order of the model's patterns, or None
    unknowns : names of the optional blocks that this model has
    executor : "auto", "fused" or "stages"
    keep_every : the fused executor keeps the waves entering every k-th slice, and recomputes the others
    object_modes : number of object modes
    deterministic : on a GPU, the same bits every time; elsewhere they always are
    mode_weights : (object mode,) weights of the intensities, or None (1 each)
    preblur_std : pixels, blur of amplitude and phase of each patch; 0 = none
    matched : (ky, kx) of a simulated pattern after cropping or resampling; None = that of ``grid``
    resampled : by interpolation instead of a crop
    reflected_blur : the detector blur is reflected at the rim of the measured pattern
    """

    grid: Grid
    cutoff: float
    subpixel: bool = True
    filter_patches: bool = False
    crop: int = 0
    propagation: str = "multislice"
    tilt_mode: int | None = None
    probe_marker: np.ndarray | None = None
    aberration_marker: np.ndarray | None = None
    n_aberrations: int = 0
    plates: PhasePlateSource | None = None
    near_field: NearFieldOptions | None = None
    across: tuple[float, float] = (1.0, 1.0)
    masks: np.ndarray | None = None
    unknowns: frozenset[str] = frozenset()
    executor: str = "auto"
    keep_every: int = 1
    object_modes: int = 1
    deterministic: bool = False
    mode_weights: np.ndarray | None = None
    preblur_std: float = 0.0
    matched: tuple[int, int] | None = None
    resampled: bool = False
    reflected_blur: bool = False

    @property
    def centred(self) -> bool:
        """Whether patterns have their centre at n//2 (near field) instead of the zero frequency first."""
        return self.near_field is not None

    @property
    def upsample(self) -> int:
        """Model pixels that are summed to a detector pixel, along each axis."""
        return 1 if self.resampled else int(self.across[0])

    @property
    def measured(self) -> tuple[int, int]:
        """(ky, kx) of the compared pattern, before virtual detectors."""
        if self.matched is not None:
            return self.matched
        ny, nx = ((n - 2 * self.crop) // self.upsample for n in self.grid.shape)
        return (ny, nx)

    @property
    def tilts(self) -> tuple[bool, bool, bool]:
        """Whether tilts before, inside and after the specimen act."""
        return (False, False, False) if self.tilt_mode is None else TILT_MODES[self.tilt_mode]

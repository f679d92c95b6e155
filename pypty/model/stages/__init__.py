"""One physical effect each, forward and adjoint side by side."""

from pypty.model.stages.base import Stage, Tape
from pypty.model.stages.detector import CropPadding, FarField, Intensity
from pypty.model.stages.illumination import Illumination, SubpixelShift
from pypty.model.stages.multislice import Multislice

__all__ = [
    "CropPadding",
    "FarField",
    "Illumination",
    "Intensity",
    "Multislice",
    "Stage",
    "SubpixelShift",
    "Tape",
]

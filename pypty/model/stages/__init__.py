"""The stages of the model: one physical effect each, with its adjoint."""

from pypty.model.stages.base import CountStage, Stage, Tape
from pypty.model.stages.counts import (
    Background,
    BeamCurrent,
    CropPadding,
    DetectorBlur,
    SourceEnvelope,
    SumPixels,
    VirtualDetectors,
)
from pypty.model.stages.detector import FarField, Intensity, NearField
from pypty.model.stages.gains import DetectorGains
from pypty.model.stages.illumination import (
    Illumination,
    LocalAberrations,
    PhasePlates,
    ProbeScenarios,
    SubpixelShift,
    TiltRamp,
    ToReal,
    ToReciprocal,
)
from pypty.model.stages.integrators import INTEGRATORS, FractionalSteps, propagation_fractions
from pypty.model.stages.matching import MatchCrop, MatchResample, ReflectedBlur
from pypty.model.stages.multislice import Multislice, ObjectWindows
from pypty.model.stages.propagation import Propagation

__all__ = [
    "INTEGRATORS",
    "Background",
    "BeamCurrent",
    "CropPadding",
    "DetectorBlur",
    "DetectorGains",
    "FarField",
    "FractionalSteps",
    "Illumination",
    "Intensity",
    "LocalAberrations",
    "MatchCrop",
    "MatchResample",
    "Multislice",
    "NearField",
    "ObjectWindows",
    "PhasePlates",
    "ProbeScenarios",
    "Propagation",
    "ReflectedBlur",
    "SourceEnvelope",
    "Stage",
    "SubpixelShift",
    "SumPixels",
    "Tape",
    "TiltRamp",
    "ToReal",
    "ToReciprocal",
    "VirtualDetectors",
    "propagation_fractions",
]

ON_WAVE_PIXELS: tuple[type[CountStage], ...] = (BeamCurrent, SourceEnvelope, DetectorBlur)
"""Stages that act on intensities on the pixels of the waves, in this order."""

TO_COMPARED_PIXELS: tuple[type[CountStage], ...] = (
    MatchCrop,
    MatchResample,
    CropPadding,
    SumPixels,
    ReflectedBlur,
    DetectorGains,
    Background,
    VirtualDetectors,
)
"""Stages that then lead to the values that are compared with data, in this order."""

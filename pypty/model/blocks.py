"""The unknowns of a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "update_obj": "obj",
        "update_probe": "probe",
        "update_probe_pos": "positions",
        "update_tilts": "tilts",
        "update_slice_distances": "slice_distances",
        "update_aberrations_array": "aberrations_array",
        "update_static_background": "static_background",
        "update_beam_current": "beam_current",
        "update_detector_blur_std": "detector_blur_std",
    }
)
"""Which parameter refines which block."""

"""Tilt-corrected bright field: the public name of :mod:`pypty.direct_methods.tcbf`."""

from pypty.direct_methods.tcbf import run_tcbf_alignment, run_tcbf_compressed_alignment, upsampled_tcbf

__all__ = ["run_tcbf_alignment", "run_tcbf_compressed_alignment", "upsampled_tcbf"]

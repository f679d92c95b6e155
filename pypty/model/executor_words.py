"""What keeps a model off the fastest executor, in the words of parameters, and what to change."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "requested": "executor='auto' takes the fastest",
        "double precision": "default_dtype='auto' or 'single'",
        "patches are filtered (lazy_clean)": "lazy_clean=False keeps the whole object band-limited instead",
        "patches are blurred (obj_preblur_std)": "obj_preblur_std=0",
        "tilts before or after the specimen": "tilt_mode=0 lets tilts act inside the specimen only",
    }
)
"""By reason. Near field, several probes, local aberrations and phase plates have none: they are what was measured."""

_WINDOW = re.compile(r"window (\d+)( x \d+, not square)?")


def with_remedy(reason: str, windows: Collection[int]) -> str:
    """A reason for which an executor does not cover a model, with what to change about it, if anything.

    Parameters
    ----------
    reason : as split_reason and not_fused_because name it: "double precision", "window 124", "propmethod yoshida", ...
    windows : sizes (pixels) for which there are kernels
    """
    window = _WINDOW.fullmatch(reason)
    if window is not None:
        remedy = "make patterns square" if window[2] else _other_window(int(window[1]), windows)
    elif reason.startswith("propmethod "):
        remedy = "propmethod='multislice'"
    else:
        remedy = REMEDIES.get(reason, "")
    return f"{reason}: {remedy}" if remedy else reason


def _other_window(size: int, windows: Collection[int]) -> str:
    """How to reach a supported window: padding on both sides, so by an even number of pixels."""
    larger = [window for window in windows if window > size and (window - size) % 2 == 0]
    if larger:
        return f"pad to {min(larger)} (data_pad larger by {(min(larger) - size) // 2})"
    of_a_kind = max(window for window in windows if (window - size) % 2 == 0)
    odd = " odd" if size % 2 else ""
    return f"data_bin makes it smaller; the largest{odd} one with kernels is {of_a_kind}"

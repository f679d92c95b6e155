"""Which waves an executor keeps for the adjoint: those that enter every k-th slice; the others it computes again."""

from __future__ import annotations

EXIT = "exit"
"""Name of the buffer of the wave behind the last slice."""


def place_of(s: int, n_slices: int, keep_every: int, keep: bool = True) -> str:
    """Name of the buffer of the wave entering slice s. Waves that are not kept share buffers between blocks; without
    ``keep`` nothing is kept."""
    if s == n_slices or not keep:
        return EXIT
    return f"incoming {s}" if s % keep_every == 0 else f"between {s % keep_every}"


def slices_to_repeat(s: int, n_slices: int, keep_every: int) -> range:
    """The slices to go through again before the adjoint of slice s: those of its block before it, if s ends a block."""
    # the last block was not overwritten
    if keep_every == 1 or (s + 1) % keep_every or s + 1 == n_slices:
        return range(0)
    return range(s + 1 - keep_every, s)

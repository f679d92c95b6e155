"""Arrays at addresses that do not change, as CUDA graphs need them."""

from __future__ import annotations

from collections.abc import Container, Mapping

from pypty.backend.array import Array
from pypty.backend.cuda.steps import copy_all
from pypty.backend.workspace import Workspace


class FixedPlaces:
    """Copies of arrays in the buffers of a workspace, made in few launches, and only where something has changed.

    An array that is the same object as before is not copied again: what is given here is replaced, and never written
    into.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Array, Array]] = {}

    def put(
        self, arrays: Mapping[str, Array], work: Workspace, changing: Container[str] = ()
    ) -> dict[str, Array]:
        """The copies, by name.

        Parameters
        ----------
        changing : names of arrays that are others each time; they are copied always, and not kept alive
        """
        places, pairs, new = {}, [], {}
        for name, array in arrays.items():
            place = places[name] = work.array(f"fixed {name}", array.shape, array.dtype)
            before, there = self._known.get(name, (None, None))
            if before is array and there is place and name not in changing:
                continue
            pairs.append((array, place))
            if name not in changing:
                new[name] = (array, place)
        copy_all(pairs)
        # only now: an array whose copy has failed, or was interrupted, is copied the next time
        self._known.update(new)
        return places

    def clear(self) -> None:
        """Forget what was copied; needed when buffers have been reallocated."""
        self._known.clear()

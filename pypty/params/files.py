"""Files that are read: regular files only, and .npy files as large as their header says."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pypty.errors import DataError

_KINDS: Mapping[str, Callable[[int], bool]] = MappingProxyType(
    {
        "a folder": stat.S_ISDIR,
        "a named pipe (FIFO)": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    }
)


def not_a_file(path: Path) -> str | None:
    """Why ``path`` is not to be opened, as a sentence; None where it is a regular file.

    Opening a named pipe waits for another process to write, and a device may give bytes without end.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no file {str(path)!r} (looked from {str(Path.cwd())!r})"
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        return f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISREG(mode):
        return None
    kind = next((name for name, is_kind in _KINDS.items() if is_kind(mode)), "something else")
    return f"{str(path)!r} is {kind}, not a regular file"


@dataclass(frozen=True, kw_only=True)
class NpyHeader:
    """What a .npy file holds, and from which byte on."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int

    @property
    def in_c_order(self) -> bool:
        return not self.fortran_order or len(self.shape) < 2


def read_npy_header(path: Path) -> NpyHeader:
    """The header of a .npy file; nothing else is read, nothing is mapped.

    Raises
    ------
    DataError
        It is no regular .npy file of numbers, or shorter than its header says. The message is the reason alone: callers
        name the file.
    """
    problem = not_a_file(path)
    if problem:
        raise DataError(problem)
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version > (2, 0):
                raise DataError(
                    f"it has format version {version[0]}.{version[1]}, which is not for plain numbers"
                )
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read(stream)
            offset = stream.tell()
    except DataError:
        raise
    except Exception as error:  # NumPy parses the header as Python text, which may raise anything
        raise DataError(str(error) or type(error).__name__) from error
    if dtype.hasobject:
        raise DataError("it contains Python objects (a pickle), which are never opened")
    if dtype.itemsize == 0 or any(n < 0 for n in shape):
        raise DataError(f"its header says shape {shape} and dtype {dtype}; it is damaged")
    needed, have = offset + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if have < needed:
        raise DataError(
            f"its header says shape {shape} and dtype {dtype}, {needed} bytes, but it has {have} bytes; it is "
            "truncated or damaged"
        )
    return NpyHeader(shape=tuple(shape), dtype=dtype, fortran_order=bool(fortran_order), offset=offset)


def load_npy(path: Path, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, in memory or mapped (read-only).

    Raises
    ------
    DataError
        As :func:`read_npy_header`, or it does not fit into memory.
    """
    read_npy_header(path)
    try:
        if mapped:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except Exception as error:  # as above
        raise DataError(str(error) or type(error).__name__) from error

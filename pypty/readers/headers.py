"""Sizes that headers of microscope files claim, checked against the file before a library believes them."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from pypty.data.hdf5 import LARGEST_RATIO
from pypty.errors import DataError

_MRC_BYTES: Mapping[int, int] = MappingProxyType({0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2})
_DM_SIZES: Mapping[int, int] = MappingProxyType(
    {2: 2, 3: 4, 4: 2, 5: 4, 6: 4, 7: 8, 8: 1, 9: 1, 10: 1, 11: 8, 12: 8}
)
"""Bytes of the elementary types of Digital Micrograph."""
_DM_STRUCT, _DM_STRING, _DM_ARRAY, _DM_GROUP, _DM_DATA = 15, 18, 20, 20, 21
_DM_MOST_TAGS = 1_000_000


def check_claims(path: Path) -> None:
    """Compare the size that a header claims with the size of the file: .mrc, .mrcz, .ali, .blo, .ser, .dm3, .dm4.

    Raises
    ------
    DataError
        The file is too short for its header, or the header cannot be read.
    """
    claimed = _CLAIMS.get(path.suffix.lower())
    if claimed is None:
        return
    have = path.stat().st_size
    try:
        with path.open("rb") as stream:
            needed = claimed(stream)
    except (struct.error, ValueError, OverflowError, LookupError) as error:
        raise DataError(
            f"the header of {str(path)!r} cannot be read: {error}; it is damaged or truncated"
        ) from error
    most = LARGEST_RATIO * have if path.suffix.lower() == ".mrcz" else have
    if needed > most:
        raise DataError(
            f"{str(path)!r} cannot be read: it has {have} bytes, but its header needs {needed}; it is damaged or "
            "truncated"
        )


def _read(stream: BinaryIO, form: str) -> tuple[int, ...]:
    values: tuple[int, ...] = struct.unpack(form, stream.read(struct.calcsize(form)))
    return values


def _mrc(stream: BinaryIO) -> int:
    header = stream.read(1024)
    nx, ny, nz, mode = struct.unpack_from("<4i", header)
    (extended,) = struct.unpack_from("<i", header, 92)
    if min(nx, ny, nz) < 1 or extended < 0:
        raise ValueError(f"shape {(nz, ny, nx)} and {extended} bytes of extended header")
    return 1024 + extended + nx * ny * nz * _MRC_BYTES.get(mode % 1000, 1)  # mrcz: 1000 times the compressor


def _blo(stream: BinaryIO) -> int:
    _, _, start, _, side, _, nx, ny = _read(stream, "<6sxx3I4H")
    return start + nx * ny * side * side


def _ser(stream: BinaryIO) -> int:
    """The array of offsets: one of 4 or 8 bytes for each element; elements are read one by one."""
    _, _, version, _, _, _, valid = _read(stream, "<3H4I")
    wide = version > 528
    (start,) = _read(stream, "<Q" if wide else "<I")
    return start + valid * (8 if wide else 4)


def _dm(stream: BinaryIO) -> int:
    """The largest image: its dimensions times the bytes of a pixel."""
    (version,) = _read(stream, ">I")
    if version not in (3, 4):
        raise ValueError(f"version {version} of Digital Micrograph")
    tags = _DmTags(stream, ">I" if version == 3 else ">Q", wide=version == 4)
    return max((math.prod(sizes) for sizes in tags.images()), default=0)


class _DmTags:
    """Walks through the tags of Digital Micrograph; values other than sizes of images are skipped."""

    def __init__(self, stream: BinaryIO, count: str, wide: bool) -> None:
        self._stream, self._count, self._wide = stream, count, wide
        _read(stream, count)  # bytes of the file
        (little,) = _read(stream, ">I")
        self._order = "<" if little else ">"
        self._tags = 0
        self._found: dict[tuple[str, ...], list[int]] = {}

    def images(self) -> Iterator[list[int]]:
        self._group(())
        for path, sizes in self._found.items():
            yield (
                [*sizes, *self._found.get((*path[:-1], "PixelDepth"), [1])]
                if path[-1] == "Dimensions"
                else [0]
            )

    def _group(self, path: tuple[str, ...]) -> None:
        if len(path) > 64:
            raise ValueError("tags in tags in tags, without end")
        self._stream.seek(2, 1)  # whether sorted, whether open
        (n,) = _read(self._stream, self._count)
        for number in range(n):
            self._tags += 1
            if self._tags > _DM_MOST_TAGS:
                raise ValueError(f"more than {_DM_MOST_TAGS} tags")
            kind, length = _read(self._stream, ">BH")
            if kind == 0:
                return
            name = self._stream.read(length).decode("latin-1") or str(number)
            if self._wide:
                self._stream.seek(8, 1)  # bytes of the tag
            if kind == _DM_GROUP:
                self._group((*path, name))
            elif kind == _DM_DATA:
                self._value((*path, name))
            else:
                raise ValueError(f"a tag of kind {kind}")

    def _value(self, path: tuple[str, ...]) -> None:
        if self._stream.read(4) != b"%%%%":
            raise ValueError("a tag without its delimiter")
        (n,) = _read(self._stream, self._count)
        if not 0 < n < 10_000:
            raise ValueError(f"{n} numbers that describe a tag")
        info = [_read(self._stream, self._count)[0] for _ in range(n)]
        size, used = self._size(info)
        dimensions, depth = len(path) > 1 and path[-2] == "Dimensions", path[-1] == "PixelDepth"
        if used == 1 and n == 1 and size in (2, 4, 8) and (dimensions or depth):
            form = self._order + {2: "H", 4: "I", 8: "Q"}[size]
            self._found.setdefault(path[:-1] if dimensions else path, []).append(_read(self._stream, form)[0])
            return
        self._stream.seek(size, 1)

    def _size(self, info: list[int]) -> tuple[int, int]:
        """Bytes of a value, and how many of the numbers that describe it were used."""
        if info[0] in _DM_SIZES:
            return _DM_SIZES[info[0]], 1
        if info[0] == _DM_STRING:
            return info[1], 2
        if (
            info[0] == _DM_STRUCT
        ):  # a name length, the number of fields, and a name length and a type for each
            return sum(_DM_SIZES[kind] for kind in info[4 : 4 + 2 * info[2] : 2]), 3 + 2 * info[2]
        if info[0] == _DM_ARRAY:
            size, used = self._size(info[1:])
            return size * info[1 + used], 2 + used
        raise ValueError(f"a tag of type {info[0]}")


_CLAIMS: Mapping[str, Callable[[BinaryIO], int]] = MappingProxyType(
    {".mrc": _mrc, ".ali": _mrc, ".mrcz": _mrc, ".blo": _blo, ".ser": _ser, ".dm3": _dm, ".dm4": _dm}
)

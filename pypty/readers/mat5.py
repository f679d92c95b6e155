"""The structure of MATLAB files of version 5 to 7, checked before SciPy reads them.

SciPy believes every tag in them, and a damaged one may end the process.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Protocol

from pypty.errors import DataError

_SIZES: Mapping[int, int] = MappingProxyType(
    {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
)
"""Bytes of a number of each type of data."""
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _LAST_NUMBER, _LAST_CLASS = 1, 2, 3, 4, 5, 15, 18
_IS_COMPLEX = 0x0800
_MOST_DEEP, _PIECE = 32, 2**20


class _Bytes(Protocol):
    done: int

    def read(self, n: int, /) -> bytes:
        """n bytes, or fewer at the end."""

    def skip(self, n: int) -> None:
        """Go on by n bytes."""


class _Plain:
    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size, self.done = stream, size, 0

    def read(self, n: int, /) -> bytes:
        self.done += n
        return self._stream.read(n)

    def skip(self, n: int) -> None:
        self.done += n
        self._stream.seek(n, 1)
        if self._stream.tell() > self._size:
            raise ValueError("it ends before its last value")


class _Packed:
    """The decompressed bytes of a variable, a piece at a time."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left, self._unpack, self._ready = stream, size, zlib.decompressobj(), b""
        self.done = 0

    def read(self, n: int, /) -> bytes:
        self.done += n
        while len(self._ready) < n and (self._left or self._unpack.unconsumed_tail):
            packed = self._unpack.unconsumed_tail or self._stream.read(min(_PIECE, self._left))
            if not self._unpack.unconsumed_tail:
                self._left -= len(packed)
                if not packed:
                    break
            self._ready += self._unpack.decompress(packed, _PIECE)
            if self._unpack.eof:
                self._left = 0
        out, self._ready = self._ready[:n], self._ready[n:]
        return out

    def skip(self, n: int) -> None:
        while n > 0:
            piece = len(self.read(min(n, _PIECE)))
            if not piece:
                raise ValueError("it ends before its last value")
            n -= piece


def check_structure(path: Path) -> None:
    """Follow all tags of a file.

    Raises
    ------
    DataError
        A tag is not of MATLAB, or leads out of the file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            order = {b"IM": "<", b"MI": ">"}.get(stream.read(128)[126:128])
            if order is None:
                raise ValueError("its header names no byte order")
            while stream.tell() < size:
                kind, n = struct.unpack(f"{order}2I", stream.read(8))
                end = stream.tell() + n
                if end > size:
                    raise ValueError("it ends before its last variable")
                if kind == _COMPRESSED:
                    packed = _Packed(stream, n)
                    _Walker(packed, order).matrix(_Walker(packed, order).tag()[1:], 0)
                elif kind == _MATRIX:
                    _Walker(_Plain(stream, size), order).matrix((n, 0), 0)
                else:
                    raise ValueError(f"a variable of type {kind}")
                stream.seek(end)
    except (struct.error, ValueError, OverflowError, zlib.error) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as a MATLAB file: {error}. It is damaged or truncated"
        ) from error


class _Walker:
    """Walks through the elements of a variable."""

    def __init__(self, source: _Bytes, order: str) -> None:
        self._source, self._order = source, order

    def tag(self) -> tuple[int, int, int]:
        """Type of an element, its bytes, and how many follow it to fill up 8; small elements need 4."""
        kind, n = struct.unpack(f"{self._order}2I", self._source.read(8))
        if kind >> 16:
            raise ValueError("a small element where a large one belongs")
        return kind, n, -n % 8

    def _element(self, wanted: tuple[int, ...] | Mapping[int, int], most: int = 0) -> tuple[int, int, bytes]:
        """Type and number of bytes of an element, and its content if that is at most ``most`` bytes."""
        head = self._source.read(8)
        kind, n = struct.unpack(f"{self._order}2I", head)
        small = kind >> 16
        if small:
            kind, n = kind & 0xFFFF, small
        if kind not in wanted or (small and n > 4):
            raise ValueError(f"an element of type {kind} and {n} bytes")
        if small:
            return kind, n, head[4 : 4 + n]
        if n <= most:
            content = self._source.read(n)
            self._source.skip(-n % 8)
            return kind, n, content
        self._source.skip(n + -n % 8)
        return kind, n, b""

    def matrix(self, size: tuple[int, int], depth: int) -> None:
        """The content of a matrix; ``size``: its bytes, and those that follow."""
        if depth > _MOST_DEEP:
            raise ValueError("cells in cells in cells, without end")
        if size[0] == 0:
            return  # an empty one
        start = self._source.done
        _, n, content = self._element((_UINT32,), 8)
        if n != 8:
            raise ValueError("a matrix without its class")
        (flags,) = struct.unpack(f"{self._order}I", content[:4])
        kind = flags & 0xFF
        if not _CELL <= kind <= _LAST_CLASS:
            raise ValueError(f"a matrix of class {kind}")
        if kind > _LAST_NUMBER:  # a function or an object of the user: neither is looked at
            self._source.skip(size[0] + size[1] - (self._source.done - start))
            return
        _, n, content = self._element((_INT32,), 128)
        if n < 8 or n > 128 or n % 4:
            raise ValueError(f"dimensions of {n} bytes")
        shape = struct.unpack(f"{self._order}{n // 4}i", content)
        if min(shape) < 0:
            raise ValueError(f"shape {shape}")
        self._element((_INT8,), 1024)  # its name
        count = math.prod(shape)
        if kind in (_CELL, _STRUCT, _OBJECT):
            self._inner(kind, count, size[0], depth)
            return
        indices = 2 if kind == _SPARSE else 0  # of rows, and where columns start
        for _ in range(indices + (2 if flags & _IS_COMPLEX else 1)):
            stored, n, _ = self._element(_SIZES)
            if n % _SIZES[stored] or (n // _SIZES[stored] != count and kind not in (_CHAR, _SPARSE)):
                raise ValueError(f"{n} bytes for shape {shape}")

    def _inner(self, kind: int, count: int, size: int, depth: int) -> None:
        """The matrices of a cell array, or of the fields of structs."""
        if kind == _OBJECT:
            self._element((_INT8,), 1024)  # its class
        if kind != _CELL:
            _, n, content = self._element((_INT32,), 4)
            length = struct.unpack(f"{self._order}i", content)[0] if n == 4 else 0
            _, n, _ = self._element((_INT8,), 2**20)
            if length < 1 or n % length:
                raise ValueError(f"names of fields of {length} letters")
            count *= n // length
        if 8 * count > size:
            raise ValueError(f"{count} matrices in {size} bytes")
        for _ in range(count):
            inner, n, after = self.tag()
            if inner != _MATRIX:
                raise ValueError(f"an element of type {inner} where a matrix belongs")
            self.matrix((n, after), depth + 1)

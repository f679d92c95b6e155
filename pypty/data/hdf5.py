"""HDF5 files that are opened with care: what a data set points to is there, and nobody is led to other folders unasked.

HDF5 reads values that are missing as zeros, without a word: those of a virtual data set whose source is gone, of raw
storage in a shorter file, and of chunks that were never written.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.errors import DataError
from pypty.params.files import not_a_file

CONSENT = "trust_external_links"
LARGEST_RATIO = 100_000
"""Largest ratio of the bytes of an array to those that are stored: more than any compression of counts achieves."""
LARGEST_DEFLATED = 1100
"""The same for zlib alone, which reaches 1032."""
_HEAP = b"GCOL\x01\0\0\0"
_HEAPS_WITHIN = 32 * 2**20
_MOST_HOPS = 16
_MOST_ITEMS = 1_000_000


def open_hdf5(path: Path, texts: bool = True) -> Any:
    """Open an HDF5 file for reading.

    Parameters
    ----------
    texts : look for damaged heaps of text first; not needed where only plain numbers are read

    Raises
    ------
    DataError
        It is not a regular file, not HDF5, or is damaged or truncated.
    """
    problem = not_a_file(path)
    if problem:
        raise DataError(problem)
    try:
        if texts:
            _check_heaps(path)
        return h5py.File(path, "r")
    except DataError:
        raise
    except Exception as error:  # damaged files
        raise DataError(
            f"{str(path)!r} cannot be opened as HDF5: {error}. It is damaged or truncated, or not HDF5; copy it again"
        ) from error


def _check_heaps(path: Path) -> None:
    """Refuse heaps of text whose entries take no space: HDF5 would go through such a heap without end.

    Looked for at the beginning and at the end of the file, where HDF5 puts what is not data.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        for start in sorted({0, max(0, size - _HEAPS_WITHIN)}):
            stream.seek(start)
            content = stream.read(_HEAPS_WITHIN)
            place = content.find(_HEAP)
            while place >= 0:
                _check_heap(content[place:], path)
                place = content.find(_HEAP, place + len(_HEAP))


def _check_heap(content: bytes, path: Path) -> None:
    """The entries of a heap: number, references, 4 bytes, size; number 0 is the free space, with its own 16 bytes.

    ``content`` begins with the heap, and may end before it.
    """
    end = int.from_bytes(content[8:16], "little")
    at = 16
    while at + 16 <= min(end, len(content)):
        number = int.from_bytes(content[at : at + 2], "little")
        size = int.from_bytes(content[at + 8 : at + 16], "little")
        if (number == 0 and size < 16) or size > end - at:
            raise DataError(f"{str(path)!r} has a heap of text with an entry of {size} bytes; it is damaged")
        at += size if number == 0 else 16 + size + -size % 8


def check_key(group: Any, key: str, trusted: bool = False, hops: int = _MOST_HOPS) -> None:
    """Check everything on the way to item ``key``, before HDF5 follows it.

    Parameters
    ----------
    trusted : links and storage may point outside of the folder of the file

    Raises
    ------
    DataError
        A link or a part of the data set points to a missing file or, not ``trusted``, outside of the folder; or the
        data set is larger than what is stored of it.
    """
    if hops == 0:
        raise DataError(f"{group.file.filename!r}: {key!r} leads through more than {_MOST_HOPS} links")
    here = group.file["/"] if key.startswith("/") else group
    parts = [part for part in key.split("/") if part not in ("", ".")]
    for place, name in enumerate(parts):
        if not isinstance(here, h5py.Group):
            return
        link = here.get(name, getlink=True)
        rest = parts[place + 1 :]
        if isinstance(link, h5py.SoftLink):
            check_key(here, "/".join([link.path, *rest]), trusted, hops - 1)
            return
        if isinstance(link, h5py.ExternalLink):
            what = f"{here.file.filename}:{here.name.rstrip('/')}/{name} is a link"
            with open_hdf5(_target(link.filename, Path(here.file.filename), what, trusted)) as file:
                check_key(file, "/".join(["", *link.path.split("/"), *rest]), trusted, hops - 1)
            return
        if link is None:
            return  # the caller says so
        here = here[name]
    if isinstance(here, h5py.Dataset):
        check_stored(here, trusted, hops)


def check_stored(
    dataset: Any, trusted: bool = False, hops: int = _MOST_HOPS, may_be_empty: bool = False
) -> None:
    """Check that the values of a data set are there; parameters and errors as in :func:`check_key`.

    Chunks that were never written among others that were are not noticed: programs leave out those of zeros.

    Parameters
    ----------
    may_be_empty : no value of it need be stored, as of a mask that masks nothing
    """
    if dataset.shape is None:
        return
    name = f"{dataset.file.filename}:{dataset.name}"
    wanted = math.prod(dataset.shape) * dataset.dtype.itemsize
    if dataset.external:
        _check_raw(dataset, name, wanted, trusted)
    elif dataset.is_virtual:
        stored = _check_sources(dataset, name, trusted, hops) * dataset.dtype.itemsize
        _check_ratio(name, dataset, wanted, stored)
    else:
        stored = dataset.id.get_storage_size()
        if may_be_empty and not stored and wanted < LARGEST_RATIO:
            return
        if wanted and not stored:
            raise DataError(
                f"{name}: no value of it was ever written; HDF5 would read zeros. Is the file complete?"
            )
        chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        _check_ratio(name, dataset, max(wanted, chunk), stored)


def check_tree(group: Any, trusted: bool = False) -> None:
    """As :func:`check_key`, for everything below a group: for files that are read whole. No group lies in itself, and
    small data sets may be empty."""
    try:
        _check_tree(group, trusted)
    except DataError:
        raise
    except Exception as error:  # h5py raises many kinds on damaged trees
        raise DataError(
            f"{group.file.filename!r} cannot be read: {error}. It is damaged or truncated"
        ) from error


def _check_tree(group: Any, trusted: bool) -> None:
    visits = 0
    waiting: list[tuple[Any, tuple[int, ...]]] = [(group, (h5py.h5o.get_info(group.id).addr,))]
    while waiting:
        item, above = waiting.pop()  # above: addresses of the group and of those that it lies in
        for name in item:
            visits += 1
            if visits > _MOST_ITEMS:
                raise DataError(f"{group.file.filename!r} has more than {_MOST_ITEMS} items; it is damaged")
            if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                check_key(item, name, trusted)
                continue
            child = item[name]
            if isinstance(child, h5py.Dataset):
                check_stored(child, trusted, may_be_empty=True)
            elif isinstance(child, h5py.Group):
                address = h5py.h5o.get_info(child.id).addr
                if address in above:
                    raise DataError(
                        f"{group.file.filename}:{item.name}/{name} is a group that lies in itself; a reader that "
                        "follows it would find no end"
                    )
                waiting.append((child, (*above, address)))


def _check_ratio(name: str, dataset: Any, wanted: int, stored: int) -> None:
    if wanted > LARGEST_RATIO * stored:
        raise DataError(
            f"{name} has shape {dataset.shape} and dtype {dataset.dtype}, {wanted} bytes, but only {stored} bytes of "
            "it are stored; it is damaged or incomplete"
        )


def _target(named: str, file: Path, what: str, trusted: bool) -> Path:
    """The file that something in ``file`` points to, as HDF5 finds it: by its whole name; by its name, or the last part
    of an absolute one, beside the file as it was opened, in the current folder, or beside the file that a link leads
    to."""
    plain = Path(named)
    inside = Path(plain.name) if plain.is_absolute() else plain
    folders = (file.parent, Path(), file.resolve().parent)
    places = ([plain] if plain.is_absolute() else []) + [folder / inside for folder in folders]
    path = next((place for place in places if not_a_file(place) is None), None)
    if path is None:
        where = file.parent / plain
        raise DataError(
            f"{what} to another file, but {not_a_file(where)}; put it there, or copy its values into this file"
        )
    return _allowed(path, file, what, trusted)


def _allowed(path: Path, file: Path, what: str, trusted: bool) -> Path:
    folders = {file.parent.resolve(), file.resolve().parent}
    if not (trusted or any(path.resolve().is_relative_to(folder) for folder in folders)):
        raise DataError(
            f"{what} to {str(path.resolve())!r}, outside of the folder {str(file.parent.resolve())!r} of the data. If "
            f"you trust it, give {CONSENT}=True (on the command line --set {CONSENT}=true, or --trust-external-links "
            "of pypty import)"
        )
    return path


def _check_raw(dataset: Any, name: str, wanted: int, trusted: bool) -> None:
    """Raw storage: names are relative to the current folder (that is HDF5's rule)."""
    left = wanted
    what = f"{name} points with its raw values"
    for stored_in, offset, size in dataset.external:
        problem = not_a_file(Path(stored_in))
        if problem:
            raise DataError(
                f"{what} to another file, but {problem}; put it there, or copy its values into this file"
            )
        path = _allowed(Path(stored_in), Path(dataset.file.filename), what, trusted)
        here = min(left, int(size))
        if here and path.stat().st_size < int(offset) + here:
            raise DataError(
                f"{name} needs {int(offset) + here} bytes of {str(path)!r}, which has {path.stat().st_size}; it is "
                "truncated"
            )
        left -= here
    if left:
        raise DataError(f"{name}: {left} of its {wanted} bytes have no place in any file; it is damaged")


def _check_sources(dataset: Any, name: str, trusted: bool, hops: int) -> int:
    """Check every source of a virtual data set once; the number of values that they give."""
    values = 0
    if hops == 0:
        raise DataError(f"{name} leads through more than {_MOST_HOPS} virtual data sets")
    extents: dict[
        tuple[str, str], np.ndarray
    ] = {}  # the last pixel that is used of every source, by file and name
    for space, file_name, key, source_space in dataset.virtual_sources():
        values += _points(space, dataset.shape)
        for number in range(_blocks(space, dataset.shape) if _is_pattern(file_name + key) else 1):
            source = (_numbered(file_name, number), _numbered(key, number))
            last = _last(source_space)
            extents[source] = last if source not in extents else np.maximum(extents[source], last)
    for (file_name, key), last in extents.items():
        if file_name == ".":
            _check_source(dataset.file, key, last, name, trusted, hops)
            continue
        path = _target(file_name, Path(dataset.file.filename), f"{name} is virtual and points", trusted)
        with open_hdf5(path, texts=False) as file:
            _check_source(file, key, last, name, trusted, hops)
    return values


def _check_source(file: Any, key: str, last: np.ndarray, name: str, trusted: bool, hops: int) -> None:
    check_key(file, key, trusted, hops - 1)
    source = file.get(key)
    if not isinstance(source, h5py.Dataset):
        raise DataError(f"{name} is virtual, but its source {file.filename!r} has no data set {key!r}")
    if len(last) == len(source.shape) and (last >= np.array(source.shape)).any():
        raise DataError(
            f"{name} is virtual and needs values up to {tuple(int(n) + 1 for n in last)} of "
            f"{file.filename}:{source.name}, which has shape {source.shape}; it is incomplete"
        )


def _last(space: Any) -> np.ndarray:
    """The last index along each axis that a selection uses; empty where it has no end."""
    try:
        return np.array(space.get_select_bounds()[1], dtype=float)
    except (RuntimeError, ValueError, OverflowError):  # unlimited: HDF5 takes what there is
        return np.array([])


def _points(space: Any, shape: tuple[int, ...]) -> int:
    try:
        return int(space.get_select_npoints())
    except (RuntimeError, ValueError, OverflowError):  # unlimited
        return math.prod(shape)


def _is_pattern(text: str) -> bool:
    return "%b" in text.replace("%%", "")


def _numbered(text: str, number: int) -> str:
    """The name of the source of a block: %b is its number."""
    return "%".join(part.replace("%b", str(number)) for part in text.split("%%"))


def _blocks(space: Any, shape: tuple[int, ...]) -> int:
    """Blocks of a virtual data set whose sources are numbered, one file each."""
    start, stride, count, _ = space.get_regular_hyperslab()
    for axis, n in enumerate(count):
        if n > max(shape, default=0):  # unlimited: as far as the data set reaches
            return max(0, -(-(shape[axis] - start[axis]) // stride[axis]))
    return math.prod(count)

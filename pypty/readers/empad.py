"""EMPAD detectors: frames without a header.

EMPAD (v1): 130 x 128 float32, of which the last two rows do not belong to the pattern. EMPAD-G2 (v2): 128 x 128
float32, or uint32 after the gains were combined. The version is not stored: it is derived from the number of bytes and
of scan points, and ambiguous files are refused.
"""

from __future__ import annotations

import ast
import logging
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import DataError
from pypty.params.files import not_a_file
from pypty.readers.arrays import Frames
from pypty.readers.recording import Metadata, Recording, checked_scan_size

_LOG = logging.getLogger("pypty")
_SIDE = 128  # pixels of a pattern along each axis
_V1_ROWS = 130  # rows of a stored frame of version 1: the last two do not belong to the pattern
_XML_BYTES = 16 * 2**20  # metadata files have a few kB; larger ones are something else


def open_empad(
    path: Path,
    scan_size: tuple[int, int] | None,
    version: int | None,
    dtype: str | None,
    ignore_metadata: bool,
) -> Recording:
    """Open an EMPAD file.

    Parameters
    ----------
    scan_size : points (slow, fast); None: from the .xml beside it, from a name like scan_x256_y256.raw, or a square
    version : 1 or 2; None: derived from the size of the file and the scan
    dtype : "float32" or "uint32", for version 2; None: derived from the values

    Raises
    ------
    DataError
        The size of the file fits no scan, or several; or the values fit neither type.
    """
    if version not in (None, 1, 2):
        raise DataError(f"version is {version!r}, expected 1 (EMPAD, 130 x 128) or 2 (EMPAD-G2, 128 x 128)")
    if dtype not in (None, "float32", "uint32"):
        raise DataError(f"dtype is {dtype!r}, expected 'float32' or 'uint32'")
    xml = None if ignore_metadata else _find_xml(path)
    xml_size, metadata = (None, Metadata()) if xml is None else _read_xml(xml)
    version, scan = _geometry(path, scan_size or xml_size or _named_size(path.name), version)
    if metadata.fov_nm is not None:  # the field of view of the longer side
        metadata = Metadata(
            scan_step_A=10 * metadata.fov_nm / max(scan),
            fov_nm=metadata.fov_nm,
            rez_pixel_size_A=metadata.rez_pixel_size_A,
        )
    kind = np.dtype("<f4")
    if version == 2:
        kind = np.dtype("<u4" if (dtype or _look(path)) == "uint32" else "<f4")
    rows = _V1_ROWS if version == 1 else _SIDE
    frames = Frames(path, 0, (*scan, _SIDE, _SIDE), kind, rows)
    if version == 1:
        _refuse_nonsense(path, frames)
    return Recording(frames, str(path), metadata, (frames.close,))


def raw_of_xml(path: Path) -> Path:
    """The .raw file that an EMPAD .xml names.

    Raises
    ------
    DataError
        It names no file, or the file is missing.
    """
    name = _raw_name(_parse(path))
    if name is None:
        raise DataError(
            f"{str(path)!r} is not an EMPAD metadata file (it has no <raw_file>); give the file with the patterns"
        )
    raw = path.with_name(name)
    if not_a_file(raw):
        raise DataError(f"{str(path)!r} names {name!r}, which is not in the same folder; copy it there")
    return raw


def _geometry(path: Path, scan: tuple[int, int] | None, version: int | None) -> tuple[int, tuple[int, int]]:
    size = path.stat().st_size
    rows = {1: _V1_ROWS, 2: _SIDE}
    # Number of frames for each version whose frames fill the file exactly.
    counts = {
        v: size // (4 * _SIDE * n)
        for v, n in rows.items()
        if size % (4 * _SIDE * n) == 0 and version in (None, v)
    }
    text = " or ".join(f"{count} frames of version {v}" for v, count in counts.items())
    if not counts:
        sizes = " or ".join(str(4 * _SIDE * rows[v]) for v in rows if version in (None, v))
        raise DataError(
            f"{str(path)!r} has {size} bytes, which is not a whole number of EMPAD frames ({sizes} bytes each); it is "
            "truncated, or not an EMPAD file"
        )
    if scan is not None:
        fitting = [v for v, count in counts.items() if count == math.prod(scan)]
        if len(fitting) == 1:
            return fitting[0], scan
        raise DataError(
            f"{str(path)!r} contains {text}, but a scan of {scan[0]} x {scan[1]} has {math.prod(scan)} points; correct "
            "scan_size (slow, fast), or the file is truncated"
        )
    # Without a scan size only a square scan is accepted, and only if one version allows it.
    squares = [v for v, count in counts.items() if math.isqrt(count) ** 2 == count]
    if len(squares) == 1:
        side = math.isqrt(counts[squares[0]])
        return squares[0], (side, side)
    raise DataError(f"{str(path)!r} contains {text}, which is not a square scan; give scan_size (slow, fast)")


def _named_size(name: str) -> tuple[int, int] | None:
    """(slow, fast) of a name like scan_x256_y128.raw."""
    match = re.search(r"_x(\d+)_y(\d+)", name)
    return None if match is None else checked_scan_size((int(match[2]), int(match[1])), name)


def _look(path: Path) -> str:
    """dtype of 4-byte values: uint32 counts are denormal as float32; usual floats exceed 2^29 as uint32."""
    n = path.stat().st_size // (4 * _SIDE * _SIDE)
    frames = Frames(path, 0, (n, _SIDE, _SIDE), np.dtype("<u4"))
    try:
        values = np.concatenate([frames[i : i + 1].ravel() for i in sorted({0, n // 3, n // 2, n - 1})])
    finally:
        frames.close()
    values = values[values != 0]
    # Combined counts stay far below 2^24; as float32 such words would be denormal numbers.
    if values.size and values.max() < 2**24:
        return "uint32"
    floats = np.abs(values.view("<f4"))
    if values.size and not (floats > 1e15).any() and np.mean((floats > 1e-12) | np.isnan(floats)) > 0.99:
        return "float32"
    raise DataError(
        f"{str(path)!r}: the values are neither float32 nor combined uint32 counts. Combine the gains first "
        "(EMPAD-G2 raw words hold two gains), or give dtype='float32' or 'uint32'"
    )


def _refuse_nonsense(path: Path, frames: Frames) -> None:
    n_rows, columns = frames.shape[:2]
    for row in sorted({0, n_rows // 2, n_rows - 1}):
        with np.errstate(invalid="ignore"):
            strange = np.abs(frames[row, 0 : min(2, columns)]) > 1e15
        if strange.any():
            frames.close()
            raise DataError(
                f"{str(path)!r}: the values are not float32 counts (some exceed 1e15); it is not an EMPAD file"
            )


def _find_xml(path: Path) -> Path | None:
    """The .xml file of the same name, else one in the same folder that names this file."""
    same = path.with_suffix(".xml")
    if same.is_file():
        return same
    for candidate in sorted(path.parent.glob("*.xml"))[:100]:
        try:
            if _raw_name(_parse(candidate)) == path.name:
                return candidate
        except DataError as error:  # another program's file
            _LOG.info("%s", error)
    return None


def _parse(path: Path) -> ElementTree.Element:
    problem = not_a_file(path)
    if problem:
        raise DataError(problem)
    try:
        if path.stat().st_size > _XML_BYTES:
            raise DataError(
                f"{str(path)!r} is larger than {_XML_BYTES} bytes: it is not an EMPAD metadata file"
            )
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"the metadata file {str(path)!r} cannot be read: {error}. Correct it, or use ignore_metadata "
            "(--ignore-metadata)"
        ) from error


def _raw_name(root: ElementTree.Element) -> str | None:
    raw_file = next(root.iter("raw_file"), None)
    if raw_file is None:
        return None
    name = raw_file.get("filename") or raw_file.findtext("filename") or ""
    return Path(name.replace("\\", "/")).name or None


def _read_xml(path: Path) -> tuple[tuple[int, int] | None, Metadata]:
    """Scan size (slow, fast) and calibration."""
    root = _parse(path)
    size, columns, rows = None, root.findtext(".//pix_x"), root.findtext(".//pix_y")
    if columns is not None and rows is not None:
        size = checked_scan_size((rows, columns), str(path))
    elif (named := _raw_name(root)) is not None:
        size = _named_size(named)
    fov, pixel = None, root.findtext(".//calibrated_pixelsize")
    direct = root.findtext(".//get_full_scan_field_of_view")
    nested = root.find(".//full_scan_field_of_view")
    if direct is not None:
        fov = 1e9 * max(_numbers(direct, path))
    elif nested is not None and nested.findtext("x") and nested.findtext("scale_factor"):
        fov = (
            1e9 * _numbers(nested.findtext("x"), path)[0] / _numbers(nested.findtext("scale_factor"), path)[0]
        )
    # calibrated_pixelsize times 1e9 is in 1/nm, hence times 1e8 in 1/Å.
    return size, Metadata(
        fov_nm=fov, rez_pixel_size_A=None if pixel is None else 1e8 * _numbers(pixel, path)[0]
    )


def _numbers(text: Any, path: Path) -> list[float]:
    """Numbers of "1.5" or "(1.5, 2)", none of them zero."""
    try:
        read = ast.literal_eval(str(text).strip())
        numbers = [float(item) for item in (read if isinstance(read, (tuple, list)) else (read,))]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        numbers = []
    if not numbers or not all(math.isfinite(item) and item > 0 for item in numbers):
        raise DataError(
            f"{str(path)!r} contains {text!r}, expected positive numbers; correct it, or use ignore_metadata "
            "(--ignore-metadata)"
        )
    return numbers

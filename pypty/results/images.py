"""Object and probe as calibrated TIFF images, which ImageJ opens with its scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tifffile

from pypty.output.files import atomic

_SUFFIX: Mapping[str, str] = MappingProxyType({"raw": "", "32": "_32bit", "16": "_16bit", "8": "_08bit"})
_LARGEST: Mapping[str, int] = MappingProxyType({"16": 65535, "8": 255})
_A_PER_NM = 10.0


@dataclass(frozen=True)
class Image:
    """One image or stack.

    Attributes
    ----------
    name : name of the quantity
    pixels : (..., y, x) real
    axes : axes of ``pixels``, in ImageJ's letters: T object modes, Z slices, Y, X
    unit : unit of the values
    """

    name: str
    pixels: np.ndarray
    axes: str
    unit: str

    def crop(self, area: tuple[slice, slice]) -> Image:
        """The part of the image in ``area``, with ``_crop`` in its name."""
        return replace(self, name=f"{self.name}_crop", pixels=self.pixels[(..., *area)])


def object_images(
    obj: np.ndarray, weights: np.ndarray, dimensions: Sequence[int], kind: str
) -> Iterator[Image]:
    """Amplitude (``kind`` "obja") or phase ("objp", of each slice, from -pi to pi) of an object.

    Parameters
    ----------
    obj : (y, x, z, modes) complex
    weights : (modes,) weights of the modes in mean and standard deviation; their sum is 1
    dimensions : 2: one image, averaged over modes and summed over slices (phase), or images of the mean and the
        product over slices (amplitude); 3: stacks of slices or modes; 4: both. Axes of length 1 make no stack

    Notes
    -----
    omean, ostd: mean and standard deviation over modes; zsum, zmean, zprod: over slices; ostack, zstack: stacks.
    """
    values = (np.angle(obj) if kind == "objp" else np.abs(obj)).transpose(3, 2, 0, 1)  # modes, slices, y, x
    unit = "rad" if kind == "objp" else ""
    flat = ("zsum",) if kind == "objp" else ("zmean", "zprod")
    n_modes, n_slices = values.shape[:2]
    mean = np.tensordot(weights, values, axes=1)  # (modes,) (modes, slices, y, x) -> (slices, y, x)

    def named(ending: str, pixels: np.ndarray, axes: str) -> Image:
        return Image(f"{kind}_{ending}" if ending else kind, pixels, axes, unit)

    def over_slices(stack: np.ndarray, how: str) -> np.ndarray:
        """(..., slices, y, x) -> (..., y, x)."""
        if how == "zprod":
            return stack.prod(axis=-3)
        return stack.sum(axis=-3) if how == "zsum" else stack.mean(axis=-3)

    modes, slices = n_modes > 1, n_slices > 1
    if 2 in dimensions and not slices:
        yield named("omean" if modes else "", mean[0], "YX")
        if modes:
            yield named("ostd", np.sqrt(np.tensordot(weights, (values - mean) ** 2, axes=1))[0], "YX")
    if 2 in dimensions and slices:
        for how in flat:
            yield named(f"omean_{how}" if modes else how, over_slices(mean, how), "YX")
    if 3 in dimensions and slices:
        yield named("omean_zstack" if modes else "zstack", mean, "ZYX")
    if 3 in dimensions and modes and slices:
        for how in flat:
            yield named(f"ostack_{how}", over_slices(values, how), "TYX")
    if 3 in dimensions and modes and not slices:
        yield named("ostack", values[:, 0], "TYX")
    if 4 in dimensions and modes and slices:
        yield named("4D", values, "TZYX")


def side_by_side(name: str, modes: np.ndarray) -> Image:
    """Amplitudes of waves ([planes,] modes, y, x) with the modes side by side: ([planes,] y, modes x)."""
    moved = np.moveaxis(np.abs(modes), -3, -2)  # ([planes,] y, modes, x)
    return Image(
        name, moved.reshape(*moved.shape[:-2], -1), "ZYX" if modes.ndim == 4 else "YX", "sqrt(counts)"
    )


def scaled(pixels: np.ndarray, bit: str) -> np.ndarray:
    """Values in single precision: unscaled (raw) or scaled to 0...1 (32); or truncated integers of 16 or 8 bits."""
    if bit == "raw":
        return pixels.astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    unit = (pixels - low) / (high - low) if high > low else np.zeros_like(pixels, dtype=float)
    if bit == "32":
        return unit.astype(np.float32)
    return (unit * _LARGEST[bit]).astype(np.uint16 if bit == "16" else np.uint8)


def tiff_stem(image: Image, bit: str) -> str:
    """File name without the epoch."""
    return f"{image.name}{_SUFFIX[bit]}"


def write_tiff(
    path: Path, image: Image, bit: str, pixel_size_A: np.ndarray, spacing_A: float | None = None
) -> Path:
    """Write one TIFF file with pixel size (nm), distance of slices, and the range of the values.

    Parameters
    ----------
    bit : raw, 32, 16 or 8 (:func:`scaled`)
    pixel_size_A : (2,) [y, x]
    spacing_A : distance between planes, if they are slices

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    low, high = float(image.pixels.min()), float(image.pixels.max())
    metadata: dict[str, object] = {
        "axes": image.axes,
        "unit": "nm",
        "Info": f"{image.name}: values from {low:.9g} to {high:.9g} {image.unit}".rstrip()
        + f"; stored: {bit}",
    }
    if "Z" in image.axes and spacing_A:
        metadata["spacing"] = spacing_A / _A_PER_NM
    per_nm = _A_PER_NM / np.asarray(pixel_size_A)  # ImageJ expects pixels per unit
    with atomic(path) as temporary:
        tifffile.imwrite(
            temporary,
            scaled(image.pixels, bit),
            imagej=True,
            resolution=(float(per_nm[1]), float(per_nm[0])),
            metadata=metadata,
        )
    return path

"""What a parameter's value may be: each kind describes, checks and converts values."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pypty.errors import DataError
from pypty.params.files import load_npy

_LARGEST_INTEGER = 2**62
_LARGEST_NUMBER = 1e60
"""Larger than any physical quantity here; powers of smaller numbers stay finite in double precision."""


class Kind(Protocol):
    """The type of a parameter."""

    def describe(self) -> str:
        """What is expected, in words."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value`` ("given ..."), or None."""

    def convert(self, value: Any) -> Any:
        """The value in its canonical type; only called when there is no problem."""


def brief(value: Any) -> str:
    """A value in an error message: short, with shape and dtype for arrays."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def near(name: Any, known: Iterable[Any]) -> str:
    """The most similar known name as a hint, for the end of an error message; "" if none is similar."""
    names = [str(item) for item in known]
    # A name that differs only in case is the most likely one.
    same = [item for item in names if item.lower() == str(name).lower()]
    close = same or difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def complaint(kind: Kind, problem: str, unit: str = "") -> str:
    """A problem with what was expected instead, unless the text (as of an entry of a dict) says so already."""
    if ", expected " in problem:
        return problem
    return f"{problem}, expected {kind.describe()}{f' in {unit}' if unit else ''}"


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, (bool, np.bool_)
    )


@dataclass(frozen=True)
class Number:
    """A finite real number, or an integer, within bounds."""

    low: float = -np.inf
    high: float = np.inf
    _: KW_ONLY
    integer: bool = False
    open_low: bool = False
    infinite: bool = False
    odd: bool = False
    boolean: bool = False  # True means 1, False 0

    def describe(self) -> str:
        word = "an odd integer" if self.odd else "an integer" if self.integer else "a number"
        low = "" if self.low == -np.inf else f" {'>' if self.open_low else '>='} {self.low:g}"
        high = "" if self.high == np.inf else f" <= {self.high:g}"
        joined = " and".join(part for part in (low, high) if part)
        return (
            word
            + joined
            + (" (inf allowed)" if self.infinite else "")
            + (", or True/False" if self.boolean else "")
        )

    def problem(self, value: Any) -> str | None:
        if self.boolean and isinstance(value, (bool, np.bool_)):
            value = int(value)
        if not _is_number(value):
            return f"given {brief(value)}"
        try:
            number = float(value)
        except OverflowError:
            return f"given {brief(value)}, which is too large"
        if np.isnan(number) or (np.isinf(number) and not (self.infinite and number > 0)):
            return f"given {brief(value)}, which is not finite"
        if np.isfinite(number) and abs(number) > _LARGEST_NUMBER:
            return f"given {brief(value)}, which is too large"
        if self.integer and np.isfinite(number) and number != round(number):
            return f"given {brief(value)}, which is not whole"
        if self.odd and number % 2 == 0:
            return f"given {brief(value)}, which is even"
        if self.integer and np.isfinite(number) and abs(number) > _LARGEST_INTEGER:
            return f"given {brief(value)}, which is too large"
        if number < self.low or (self.open_low and number == self.low) or number > self.high:
            return f"given {brief(value)}, which is out of range"
        return None

    def convert(self, value: Any) -> Any:
        number = float(value)
        return int(number) if self.integer and np.isfinite(number) else number


@dataclass(frozen=True)
class Flag:
    """True or False; unless ``strict``, 0 and 1 are accepted too, since PyPty's presets use them."""

    strict: bool = False
    none_is_off: bool = False

    def describe(self) -> str:
        return "True or False" + (" (or None)" if self.none_is_off else "")

    def problem(self, value: Any) -> str | None:
        if self.none_is_off and value is None:
            return None
        as_number = not self.strict and _is_number(value) and value in (0, 1)
        if isinstance(value, (bool, np.bool_)) or as_number:
            return None
        return f"given {brief(value)}"

    def convert(self, value: Any) -> bool:
        return bool(value)


@dataclass(frozen=True)
class Switch:
    """An update flag: True/False or any number; a number > 0 means on (its size has no meaning)."""

    def describe(self) -> str:
        return "True/False, or a number (> 0 means on)"

    def problem(self, value: Any) -> str | None:
        if isinstance(value, (bool, np.bool_)) or (_is_number(value) and Number().problem(value) is None):
            return None
        return f"given {brief(value)}"

    def convert(self, value: Any) -> bool:
        return bool(float(value) > 0)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    options: tuple[str, ...]

    def describe(self) -> str:
        return "one of " + ", ".join(repr(option) for option in self.options)

    def problem(self, value: Any) -> str | None:
        if isinstance(value, str):
            return None if value in self.options else f"given {brief(value)}{near(value, self.options)}"
        return f"given {brief(value)}"

    def convert(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class Text:
    """A string."""

    def describe(self) -> str:
        return "a string"

    def problem(self, value: Any) -> str | None:
        return None if isinstance(value, str) else f"given {brief(value)}"

    def convert(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class FilePath:
    """A path, as a string or path object; it need not exist."""

    def describe(self) -> str:
        return "a path"

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (str, os.PathLike)):
            return f"given {brief(value)}"
        if "\0" in str(value):
            return f"given {brief(value)}, which cannot be a path (it contains a NUL character)"
        try:
            Path(value).expanduser().exists()
        except (OSError, RuntimeError, ValueError) as error:  # name too long, unknown user, NUL character
            return f"given {brief(value)}, which cannot be a path ({error})"
        return None

    def convert(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True)
class DType:
    """A NumPy type of real numbers."""

    def describe(self) -> str:
        return "a real NumPy dtype such as 'float32' or 'uint16'"

    def problem(self, value: Any) -> str | None:
        try:
            real = value is not None and np.dtype(value).kind in "biuf"
        except (TypeError, ValueError):
            real = False
        return None if real else f"given {brief(value)}"

    def convert(self, value: Any) -> np.dtype:
        return np.dtype(value)


@dataclass(frozen=True)
class Null:
    """None."""

    def describe(self) -> str:
        return "None"

    def problem(self, value: Any) -> str | None:
        return None if value is None else f"given {brief(value)}"

    def convert(self, value: Any) -> None:
        return None


@dataclass(frozen=True)
class ArrayOf:
    """A finite numeric array (or nested list, or the path of a .npy file) of given dimensions.

    ``dims`` holds one tuple of axis names per accepted number of dimensions; an axis whose name is a number must
    have exactly that size. With ``lazy`` (for data sets) the array may have any real dtype, and is neither copied nor
    scanned for bad values.
    """

    dims: tuple[tuple[str, ...], ...]
    _: KW_ONLY
    complex: bool = False
    integer: bool = False
    boolean: bool = False
    lazy: bool = False
    allow_nan: bool = False
    low: float = -np.inf
    high: float = np.inf
    empty: bool = False
    mask: bool = False  # booleans stay booleans: they choose entries

    def describe(self) -> str:
        shapes = " or ".join(
            "(" + ", ".join(names) + ("," if len(names) == 1 else "") + ")" for names in self.dims
        )
        word = "complex" if self.complex else "integer" if self.integer else "real"
        bound = "" if self.low == -np.inf else f" of numbers >= {self.low:g}"
        bound += "" if self.high == np.inf else f" and <= {self.high:g}"
        return f"{'an' if word == 'integer' else 'a'} {word} array of shape {shapes}{bound}" + (
            "" if self.lazy else ", or the path of a .npy file"
        )

    def problem(self, value: Any) -> str | None:
        if isinstance(value, (str, os.PathLike)):
            if self.lazy:
                return f"given the string {brief(value)}; name a file with data_path"
            return self._file_problem(Path(value))
        try:
            hasattr(value, "shape")
        except (RuntimeError, OSError, ValueError) as error:  # an HDF5 data set whose file was closed
            return f"given an array that cannot be accessed; was its file closed? ({error})"
        if not hasattr(value, "shape") and not isinstance(value, (Sequence, int, float, complex)):
            return f"given {brief(value)}"
        try:
            array = value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)
        except ValueError as error:
            return f"given a nested list that does not form an array ({error})"
        return self._array_problem(array)

    def _file_problem(self, path: Path) -> str | None:
        if path.suffix != ".npy":
            return f"given the string {str(path)!r}, which is not a .npy file"
        try:
            array = load_npy(path, mapped=True)
        except DataError as error:
            return f"given the file {str(path)!r}, which cannot be read ({error})"
        return self._array_problem(array)

    def _array_problem(self, array: Any) -> str | None:
        if not isinstance(array.dtype, np.dtype):
            return f"given a {type(array).__name__}, not a NumPy array; convert it with numpy.asarray"
        text = f"given an array of shape {tuple(array.shape)} and dtype {array.dtype}"
        if array.dtype.kind not in "biufc":
            return f"{text}, which does not hold numbers"
        if array.dtype.kind == "c" and not self.complex:
            return f"{text}, which is complex"
        if not any(_fits(array.shape, names) for names in self.dims):
            return f"given {brief(array[()])}" if array.ndim == 0 else text
        if 0 in array.shape:
            return None if self.empty else f"{text}, which is empty"
        try:
            # An empty slice tests the conversion of a lazy array without reading it.
            values = np.asarray(array[:0] if self.lazy else array)
        except TypeError as error:  # CuPy arrays, for example, refuse implicit conversion
            return (
                f"{text} of type {type(array).__name__}, which cannot be converted to a NumPy array ({error})"
            )
        if self.lazy:
            return None
        if not self.allow_nan and values.dtype.kind in "fc" and not np.isfinite(values).all():
            n_bad = int((~np.isfinite(values)).sum())
            return f"{text}, which contains {n_bad} values that are NaN or infinite"
        if values.dtype.kind != "c" and (values < self.low).any():
            return f"{text}, whose smallest value is {values.min():g}"
        if values.dtype.kind != "c" and (values > self.high).any():
            return f"{text}, whose largest value is {values.max():g}"
        if self.integer and values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
            return f"{text}, whose values are not whole"
        if self.integer and values.dtype.kind in "fu" and (abs(values) > _LARGEST_INTEGER).any():
            return f"{text}, whose values are too large"
        return None

    def convert(self, value: Any) -> Any:
        if self.lazy:
            return value if hasattr(value, "shape") else np.asarray(value)
        if isinstance(value, (str, os.PathLike)):
            value = load_npy(Path(value))
        if self.boolean or (self.mask and np.asarray(value).dtype == bool):
            return np.array(value).astype(bool)
        dtype = np.complex128 if self.complex else np.int64 if self.integer else np.float64
        return np.array(value, dtype=dtype)  # a copy: the user's arrays are never changed


def _fits(shape: tuple[int, ...], names: tuple[str, ...]) -> bool:
    """Whether a shape has these axes; an axis whose name is a number must have that size."""
    return len(shape) == len(names) and all(
        not name.isdigit() or size == int(name) for size, name in zip(shape, names, strict=True)
    )


@dataclass(frozen=True)
class Either:
    """Any one of several kinds."""

    kinds: tuple[Kind, ...]

    def describe(self) -> str:
        return ", or ".join(kind.describe() for kind in self.kinds)

    def problem(self, value: Any) -> str | None:
        problems = [kind.problem(value) for kind in self.kinds]
        if None in problems:
            return None
        return max((text for text in problems if text), key=len)  # the most specific complaint

    def convert(self, value: Any) -> Any:
        return next(kind for kind in self.kinds if kind.problem(value) is None).convert(value)


@dataclass(frozen=True)
class Anything:
    """Any value: for keys that are only recorded."""

    def describe(self) -> str:
        return "anything"

    def problem(self, value: Any) -> str | None:
        return None

    def convert(self, value: Any) -> Any:
        return value


def optional(kind: Kind) -> Either:
    """``kind`` or None."""
    return Either((kind, Null()))

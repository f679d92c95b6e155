"""Compiled CUDA kernels, and launches with checked arguments.

A kernel that receives an argument of the wrong type silently reads or writes memory that is not its own, so every
argument is compared with the signature in the source before a launch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.resources
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from pypty.backend.array import Array
from pypty.backend.device_errors import is_out_of_memory
from pypty.errors import BackendError

Parameters: TypeAlias = tuple[tuple[str, str], ...]
"""Compile-time parameters, -DNAME=VALUE."""

Compiler: TypeAlias = Callable[[str, tuple[str, ...]], Any]
"""From source and options to a module that has ``get_function(name)``, as cupy.RawModule has."""

LANGUAGE = "-std=c++17"

_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\(\w+\))?\s*(\w+)\s*\(([^)]*)\)', re.DOTALL
)

_TYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "int": np.dtype(np.int32),
        "unsigned int": np.dtype(np.uint32),
        "long long": np.dtype(np.int64),
        "unsigned long long": np.dtype(np.uint64),
        "double": np.dtype(np.float64),
        "bool": np.dtype(np.bool_),
    }
)
_REAL_TYPES: Mapping[str, tuple[np.dtype, np.dtype]] = MappingProxyType(
    {
        "float": (np.dtype(np.float32), np.dtype(np.complex64)),
        "double": (np.dtype(np.float64), np.dtype(np.complex128)),
    }
)


@dataclass(frozen=True)
class Argument:
    """One parameter of a kernel: a pointer to, or one number of, ``dtype``."""

    name: str
    dtype: np.dtype
    is_array: bool


@lru_cache(maxsize=8)
def read_source(files: tuple[str, ...]) -> str:
    """The concatenated files, with #line directives so that compiler messages name the file and its own line."""
    folder = importlib.resources.files(__package__)
    return "\n".join(
        f'#line 1 "{name}"\n{folder.joinpath(name).read_text(encoding="utf-8")}' for name in files
    )


def signatures(source: str, parameters: Parameters) -> dict[str, tuple[Argument, ...]]:
    """The arguments of every kernel in ``source``, compiled with these parameters."""
    values = dict(parameters)
    real_type, complex_type = _REAL_TYPES[values.get("REAL", "float")]
    # Typedefs of the sources, whose meaning depends on the compile-time parameters.
    types = {**_TYPES, "real_t": real_type, "complex_t": complex_type}
    if "DATA" in values:
        types["data_t"] = np.dtype(values["DATA"])
    return {
        name: tuple(_argument(text, types) for text in arguments.split(","))
        for name, arguments in _KERNEL.findall(source)
    }


def _argument(text: str, types: Mapping[str, np.dtype]) -> Argument:
    """Read ``const complex_t* wave`` or ``int modes``."""
    kind, name = text.replace("const ", "").replace("__restrict__ ", "").strip().rsplit(None, 1)
    return Argument(name, types[kind.rstrip("*").strip()], kind.endswith("*"))


@lru_cache(maxsize=64)
def _compile_for_device(source: str, options: tuple[str, ...]) -> Any:
    """One module for each source and set of options. CuPy caches the compiled code on disk."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise BackendError(
            f"CUDA kernels need CuPy, whose import failed: {error}. See  pypty doctor."
        ) from error
    return cupy.RawModule(code=source, options=options, backend="nvrtc")


class KernelModule:
    """The kernels of some source files with one set of compile-time parameters.

    Parameters
    ----------
    files : files of this package, in the order in which they are concatenated
    parameters : compile-time parameters, in a fixed order; REAL ("float" if absent) is the precision, DATA the name
        of the NumPy type of measured data
    compiler : None for CuPy's
    """

    def __init__(
        self, files: tuple[str, ...], parameters: Parameters, compiler: Compiler | None = None
    ) -> None:
        self.source = read_source(files)
        self.options = (LANGUAGE, *(f"-D{name}={value}" for name, value in parameters))
        self.signatures = signatures(self.source, parameters)
        self._compiler = compiler or _compile_for_device
        self._functions: dict[str, Any] = {}

    @cached_property
    def _module(self) -> Any:
        """The compiled module; compiled when the first kernel is launched."""
        return self._compiler(self.source, self.options)

    def launch(self, name: str, n_blocks: int, n_threads: int, *arguments: Any) -> None:
        """Start a kernel.

        Parameters
        ----------
        n_blocks, n_threads : blocks of the grid, threads of a block; with 0 blocks nothing happens
        arguments : C-contiguous arrays, None for an array that is absent, or numbers of NumPy types

        Raises
        ------
        BackendError
            An argument does not have the type that the kernel expects, or the kernel cannot be compiled or started.
        MemoryError
            The compiled code, or the memory of its threads, does not fit on the device.
        """
        expected = self.signatures[name]
        if len(arguments) != len(expected):
            raise BackendError(f"kernel {name} takes {len(expected)} arguments, got {len(arguments)}")
        checked = tuple(_checked(name, *pair) for pair in zip(expected, arguments, strict=True))
        if n_blocks > 0:
            with _explained(f"the CUDA kernel {name} could not be started"):
                self._function(name)((n_blocks,), (n_threads,), checked)

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            with _explained(f"the CUDA kernel {name} could not be compiled"):
                self._functions[name] = self._module.get_function(name)
        return self._functions[name]


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of the compiler and of the driver, which have no common public class, with what was tried."""
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise BackendError(
            f"{what} ({error}); executor='stages' uses CuPy's operations instead. See  pypty doctor."
        ) from error


def _checked(kernel: str, expected: Argument, argument: Any) -> Array:
    """The argument in the form that CuPy's launch takes; an absent array becomes a null pointer."""
    if expected.is_array and argument is None:
        return np.uint64(0)
    is_array = hasattr(argument, "flags") and not isinstance(argument, np.generic)
    if is_array != expected.is_array or not hasattr(argument, "dtype") or argument.dtype != expected.dtype:
        kind = "an array" if expected.is_array else "a NumPy number"
        raise BackendError(
            f"kernel {kernel}: {expected.name} must be {kind} of {expected.dtype}, "
            f"got {type(argument).__name__} {getattr(argument, 'dtype', '')}"
        )
    if is_array and not argument.flags.c_contiguous:
        raise BackendError(f"kernel {kernel}: {expected.name} must be C-contiguous; copy it first")
    return argument

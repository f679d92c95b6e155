"""A stand-in for cupy.RawModule: builds the text of the kernels with g++ and runs it on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "g++")
OPTIMISED = ("-O2",)
SANITISED = ("-O1", "-fsanitize=address", "-fno-omit-frame-pointer")
"""Without -g, which takes three times as long; reports name the kernel all the same."""


def why_not() -> str:
    """Why kernels cannot be built here; "" if they can."""
    if shutil.which(COMPILER):
        return ""
    return f"the C++ compiler {COMPILER} is not installed (set CXX, or install g++)"


class CpuModule:
    """The kernels of a source text.

    Parameters
    ----------
    source, options : as cupy.RawModule takes them; of the options only -D... count
    flags : for the C++ compiler
    order : of the blocks: 0 as they come, 1 reversed, 2, 3, ... shuffled
    """

    def __init__(
        self, source: str, options: Sequence[str], flags: Sequence[str] = OPTIMISED, order: int = 0
    ) -> None:
        self.order = order
        self.library = ctypes.CDLL(str(built(source, options, flags)))

    def get_function(self, name: str) -> Any:
        function = self.library[f"launch_{name}"]

        def launch(grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
            values = [_value(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
            function(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), pointers, ctypes.c_uint(self.order))

        return launch


def _value(argument: Any) -> np.ndarray:
    """What the kernel gets: the address of an array, or a number."""
    return np.array(argument.ctypes.data if isinstance(argument, np.ndarray) else argument)


def built(source: str, options: Sequence[str], flags: Sequence[str]) -> Path:
    """The library, from the cache if it was built before."""
    kernels = re.findall(r"__global__ void (?:__launch_bounds__\(\w+\))?\s*(\w+)\s*\(", source)
    exports = "\n".join(f"CPU_EXPORT({kernel})" for kernel in kernels)
    text = f'#include "cuda_cpu.h"\n{source}\n{exports}\n'
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", f"-I{HERE}", "-Wno-unknown-pragmas", *flags]
    command += [option for option in options if option.startswith("-D")]
    header = (HERE / "cuda_cpu.h").read_text()
    key = hashlib.sha256(repr((text, header, command)).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"pypty-kernels-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            program = Path(scratch) / "kernels.cpp"
            program.write_text(text)
            subprocess.run([*command, str(program), "-o", f"{scratch}/kernels.so"], check=True)
            os.replace(f"{scratch}/kernels.so", library)
    return library

"""A stand-in for cupy.RawModule without CuPy: builds the text of the kernels with g++ and runs it on NumPy arrays.

Kernels find what they need in emulator/src/kernel.h; their blocks and threads run as in emulator/src/blocks.cpp.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from emulator.build import COMPILER, SOURCES

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
    order : of the blocks and threads: 0 as they come, 1 reversed, 2, 3, ... shuffled
    """

    def __init__(
        self, source: str, options: Sequence[str], flags: Sequence[str] = OPTIMISED, order: int = 0
    ) -> None:
        self.order = order
        self.library = ctypes.CDLL(str(built(source, options, flags)))

    def get_function(self, name: str) -> Any:
        entry = self.library[f"entry_{name}"]

        def launch(grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
            values = [_value(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
            numbers = (ctypes.c_uint(number) for number in (grid[0], block[0], self.order))
            self.library.emulator_run(entry, pointers, *numbers)

        return launch


def _value(argument: Any) -> np.ndarray:
    """What the kernel gets: the address of an array, or a number."""
    return np.array(argument.ctypes.data if isinstance(argument, np.ndarray) else argument)


def built(source: str, options: Sequence[str], flags: Sequence[str]) -> Path:
    """The library, from the cache if it was built before."""
    kernels = re.findall(r"__global__ void (?:__launch_bounds__\(\w+\))?\s*(\w+)\s*\(", source)
    exports = "\n".join(f"EMULATOR_EXPORT({kernel}, true)" for kernel in kernels)
    text = f'#include "kernel.h"\n{source}\n{exports}\n'
    # the library has its own threads and blocks, also where those of the emulated device are loaded
    own = ["-Wl,-Bsymbolic"] if sys.platform == "linux" else []
    defined = [option for option in options if option.startswith("-D")]
    blocks = _compiled((SOURCES / "blocks.cpp").read_text(), flags, ["-c"], "o")
    return _compiled(text, flags, ["-shared", *own, *defined, str(blocks)], "so")


def _compiled(text: str, flags: Sequence[str], further: list[str], ending: str) -> Path:
    """A file that the compiler makes from a text."""
    command = [COMPILER, "-std=c++17", "-fPIC", f"-I{SOURCES}", "-Wno-unknown-pragmas", *flags]
    headers = [(SOURCES / name).read_text() for name in ("kernel.h", "blocks.h")]
    key = hashlib.sha256(repr((text, headers, command, further)).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"pypty-kernels-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    compiled = folder / f"{key}.{ending}"
    if not compiled.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            program, made = Path(scratch) / "program.cpp", f"{scratch}/made.{ending}"
            program.write_text(text)
            subprocess.run([*command, str(program), *further, "-o", made], check=True)
            os.replace(made, compiled)
    return compiled

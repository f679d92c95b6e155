"""Builds the emulated device for the CuPy that is installed; what is built already is used again.

    python tests/cuda/emulator/build.py         # half a minute of one core; a second time there is nothing to do

The folder is that of the variable EMULATOR_BUILD, or pypty-emulator in the user's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

SOURCES = Path(__file__).parent / "src"
COMPILER = os.environ.get("CXX", "g++")
OWN_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-Wall", "-Wno-unused-function")
KERNEL_FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics")
"""The same for the precompiled headers, which the compiler does not accept otherwise."""

CUPY = "cupy-cuda12x"
SUPPORTED = "14.2.0"
HEADERS = "nvidia-cuda-runtime-cu12"

LIBRARIES: Mapping[str, tuple[str, str, int]] = MappingProxyType(
    {
        "cublasLt": ("libcublasLt.so.12", "", 0),
        "nvJitLink": ("libnvJitLink.so.12", "", 0),
        "cublas": ("libcublas.so.12", "cupy_backends/cuda/libs", 15),
        "cufft": ("libcufft.so.11", "cupy/cuda", 16),
        "curand": ("libcurand.so.10", "cupy_backends/cuda/libs", 999),
        "cusolver": ("libcusolver.so.11", "cupy_backends/cuda/libs", 9),
        "cusparse": ("libcusparse.so.12", "cupy_backends/cuda/libs", 10),
        "nvrtc": ("libnvrtc.so.12", "cupy_backends/cuda/libs", 11),
    }
)
"""What CuPy opens; in which folder its module for it lies ("": it only asks whether the library is there); and what
functions that are not emulated return: the library's code for what is not supported, or for an internal error."""

DRIVER = "libcuda.so.1"
"""The driver's library; it contains the runtime too, and is opened before all others."""

NOT_SUPPORTED = 801
"""The same code of the driver and the runtime."""


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes
    ----------
    libraries : by the name of each, in the order in which they are opened
    functions : of the CUDA runtime inside CuPy, with their offsets
    kernels : the folder in which compiled kernels are kept
    command : compiles a kernel
    """

    libraries: dict[str, Path]
    functions: dict[str, int]
    kernels: Path
    command: str


def why_not() -> str:
    """Why the device cannot be built here, and what to install; "" if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the emulated CUDA device needs Linux on x86-64"
    for program in (COMPILER, "nm"):
        if shutil.which(program) is None:
            return f"the emulated CUDA device needs {program} (Debian, Ubuntu: apt-get install g++)"
    install = "pip install 'pypty[emulator]'"
    for name, wanted in ((CUPY, SUPPORTED), (HEADERS, "")):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"the emulated CUDA device needs {name} {wanted}".rstrip() + f" ({install})"
        if wanted and version != wanted:
            return f"the emulated CUDA device needs {name} {wanted}, and {version} is installed ({install})"
    return ""


def default_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EMULATOR_BUILD") or cache / "pypty-emulator")


# ---- what CuPy's modules contain, and expect from elsewhere


def site_packages() -> Path:
    """Where CuPy is installed; it is not imported, which would open its libraries."""
    return Path(str(importlib.metadata.distribution(CUPY).locate_file("")))


def compiled_module(folder: str, name: str) -> Path:
    """The module ``name`` of CuPy, whatever its suffix."""
    return next(
        path for path in (site_packages() / folder).iterdir() if re.match(rf"{name}\..*\.so$", path.name)
    )


def symbols(library: Path, *options: str) -> list[list[str]]:
    """The words of each line that nm prints."""
    done = subprocess.run(["nm", *options, str(library)], check=True, capture_output=True, text=True)
    return [line.split() for line in done.stdout.splitlines()]


def undefined_symbols(library: Path, prefix: str) -> list[str]:
    """The functions that a module expects from elsewhere."""
    names = (words[-1].split("@")[0] for words in symbols(library, "-D") if "U" in words)
    return sorted({name for name in names if name.startswith(prefix)})


def runtime_functions() -> dict[str, int]:
    """The functions of the CUDA runtime, which CuPy's module contains, and their offsets in it."""
    module = compiled_module("cupy_backends/cuda/api", "runtime")
    offsets = {
        words[2]: int(words[0], 16) for words in symbols(module) if len(words) == 3 and words[1] in "tT"
    }
    return {name: offset for name, offset in offsets.items() if re.match(r"cuda[A-Z](?!rt)", name)}


# ---- libraries


def stubs(functions: list[str], error: int, prefix: str = "") -> str:
    """The text of functions that say that they are not emulated; a source may define better ones."""
    lines = [
        '#define WEAK __attribute__((weak))\nextern "C" {\nint emulator_missing(const char*, int);',
        *(
            f'int WEAK {prefix}{name}(void) {{ return emulator_missing("{name}", {error}); }}'
            for name in functions
        ),
        "}\n",
    ]
    return "\n".join(lines)


def compile_library(folder: Path, name: str, stub: str, sources: list[str], flags: list[str]) -> None:
    """Its symbols get its name as their version, which CuPy's modules ask for."""
    text = folder / f"{name}.stubs.cpp"
    text.write_text(stub)
    versions = folder / f"{name}.map"
    versions.write_text(f"{name} {{ global: *; }};\n")
    files = [str(text), *(str(SOURCES / source) for source in sources)]
    linked = ["-shared", f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}", "-o", str(folder / name)]
    subprocess.run([COMPILER, *OWN_FLAGS, f"-I{SOURCES}", *files, *linked, *flags], check=True)


def precompile(folder: Path, header: str) -> None:
    """A header for kernels, into ``folder``."""
    (folder / header).write_bytes((SOURCES / header).read_bytes())
    cupy = site_packages() / "cupy/_core/include"
    libraries = [f"-I{cupy / 'cupy/_cccl' / name}" for name in ("cub", "thrust", "libcudacxx")]
    includes = [f"-I{folder}", f"-I{SOURCES}", *libraries, f"-I{cupy}"]
    command = [COMPILER, *KERNEL_FLAGS, *includes, "-x", "c++-header"]
    subprocess.run([*command, str(folder / header), "-o", str(folder / f"{header}.gch")], check=True)


def stamp(*sources: str) -> str:
    """A short name for everything on which a build depends; not for the place of CuPy, which is a new one in each
    environment of CI."""
    key = hashlib.sha256(Path(__file__).read_bytes())
    for source in sources:
        key.update((SOURCES / source).read_bytes())
    for name in (CUPY, HEADERS):  # the version, and for which Python
        wheel = importlib.metadata.distribution(name)
        key.update(f"{wheel.version} {wheel.read_text('WHEEL')}".encode())
    key.update(subprocess.run([COMPILER, "--version"], check=True, capture_output=True).stdout)
    return key.hexdigest()[:12]


def build_kernel_headers(root: Path) -> Path:
    """The folder of the precompiled headers, in which compiled kernels are put beside them."""
    headers = ("kernel.h", "cupy_kernel.h")
    folder = root / f"kernels-{stamp(*headers, 'blocks.h')}"
    if not (folder / "ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for header in headers:
            precompile(folder, header)
        (folder / "ready").touch()
    return folder


def build_libraries(root: Path) -> Path:
    """The folder of the emulated libraries."""
    sources = sorted(path.name for path in SOURCES.glob("*.cpp"))
    folder = root / f"device-{stamp(*sources, *(path.name for path in SOURCES.glob('*.h')))}"
    if (folder / "functions.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    functions = runtime_functions()
    of_driver = undefined_symbols(compiled_module("cupy_backends/cuda/api", "driver"), "cu")
    own = {f"{name}.cpp" for name in LIBRARIES}
    stub = stubs(sorted(functions), NOT_SUPPORTED, "emulated_") + stubs(of_driver, NOT_SUPPORTED)
    includes = [f"-I{site_packages() / 'nvidia/cuda_runtime/include'}", "-ldl"]
    compile_library(folder, DRIVER, stub, [name for name in sources if name not in own], includes)
    for name, (library, where, error) in LIBRARIES.items():
        stub = stubs(undefined_symbols(compiled_module(where, name), name) if where else [], error)
        source = [f"{name}.cpp"] if f"{name}.cpp" in sources else []
        compile_library(folder, library, stub, source, [f"-L{folder}", f"-l:{DRIVER}"])
    (folder / "functions.json").write_text(json.dumps(functions))
    return folder


def build(root: Path | None = None) -> Built:
    """Everything, in folders below ``root``."""
    if why_not():
        raise RuntimeError(why_not())
    root = (root or default_folder()).resolve()
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "lock", "w") as lock, ThreadPoolExecutor(2) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that start at the same time build it once
        jobs = [pool.submit(make, root) for make in (build_kernel_headers, build_libraries)]
        kernels, device = (job.result() for job in jobs)
    return Built(
        libraries={"driver": device / DRIVER} | {name: device / row[0] for name, row in LIBRARIES.items()},
        functions=json.loads((device / "functions.json").read_text()),
        kernels=kernels,
        command=" ".join([COMPILER, *KERNEL_FLAGS, "-shared", f"-I'{kernels}'"]),
    )


if __name__ == "__main__":
    print(build().kernels.parent)

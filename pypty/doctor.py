"""``pypty doctor``: resources of this machine, and why a GPU is not used."""

from __future__ import annotations

import importlib.metadata
import platform

from pypty._version import __version__
from pypty.backend.array import available_cores, gpu_status, select
from pypty.backend.memory import free_bytes
from pypty.engine.ranks.examination import examine_ranks
from pypty.ranks.link import Link

_PACKAGES = ("numpy", "scipy", "h5py", "matplotlib", "PyYAML", "tqdm", "tifffile", "simpleeval")


def examine(world: Link | None = None) -> str:
    """A report as text.

    Parameters
    ----------
    world : ranks that a launcher has started; None = this process is alone
    """
    lines = [f"PyPty {__version__} on Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"  {name:<12}{_version(name)}" for name in _PACKAGES]
    cpu = select("cpu")
    lines.append(f"CPU: {available_cores()} cores for this process, {free_bytes(cpu) / 2**30:.1f} GiB free")
    fast = cpu.fft_library == "fftw"
    advice = (
        f"FFTW (pyFFTW {_version('pyfftw')})"
        if fast
        else "SciPy; pip install 'pypty[fast]' is up to twice as fast"
    )
    lines.append(f"Fourier transforms: {advice}")
    status = gpu_status()
    if status.usable:
        gpu = select("gpu")
        lines.append(
            f"GPU: {status.device}, CuPy {status.cupy_version}, {free_bytes(gpu) / 2**30:.1f} GiB free; "
            "backend='auto' uses it"
        )
    else:
        cupy = f" (CuPy {status.cupy_version})" if status.cupy_version else ""
        lines.append(f"GPU: not used{cupy}: {status.reason}")
    lines += ["Ranks (docs/cluster.md):", *(f"  {line}" for line in examine_ranks(world, status.usable))]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"

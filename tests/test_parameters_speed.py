"""Parameters of how it is computed: their effect, and that the numbers stay what they are."""

from __future__ import annotations

import importlib.util

import pytest
from parameter_registry import Desk, effect, loss
from problems import small_params

from pypty.backend.array import Backend
from pypty.engine.loop import Reconstruction
from pypty.engine.prepare import prepare
from pypty.engine.state import State
from pypty.errors import ParameterError


def prepared_backend(**changes: object) -> Backend:
    setup = prepare(small_params(**changes))
    setup.close()
    return setup.backend


def executor_of(**changes: object) -> str:
    setup = prepare(small_params(**changes))
    try:
        reconstruction = Reconstruction(setup, State(setup.variables(), 0))
        return reconstruction.problem(setup.settings.first()).objective.model.executor
    finally:
        setup.close()


@effect("fft_library", bad="cufft")
def _(desk: Desk) -> None:
    """SciPy always; FFTW where it is installed, else an error that says how to install it."""
    assert prepared_backend(fft_library="scipy").fft_library == "scipy"
    if importlib.util.find_spec("pyfftw") is None:
        assert prepared_backend(fft_library="auto").fft_library == "scipy"
        with pytest.raises(ParameterError, match=r"pip install 'pypty\[fast\]'"):
            loss(fft_library="fftw")
    else:
        assert prepared_backend(fft_library="auto").fft_library == "fftw"
        assert loss(fft_library="fftw") == pytest.approx(loss(fft_library="scipy"), rel=1e-12)


@effect("executor", bad="fast")
def _(desk: Desk) -> None:
    """Which stages there are; the numbers are the same."""
    models = {name: executor_of(executor=name) for name in ("auto", "stages")}
    assert models == {"auto": "fused", "stages": "stages (asked for)"}
    assert loss(executor="stages") == pytest.approx(loss(), rel=1e-12)

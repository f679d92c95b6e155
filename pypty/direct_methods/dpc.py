"""Differential phase contrast: the phase of the object from centres of mass of the patterns.

The centre of mass of a pattern, in 1/Å, is the gradient of the object's phase, averaged over the probe, divided by 2 pi
(Müller et al., Nat. Commun. 5 (2014) 5653; Lazic, Bosch & Lazar, Ultramicroscopy 160 (2016) 265).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.direct_methods.numerics.com import centres_of_mass
from pypty.direct_methods.numerics.integration import (
    Descent,
    integrate_fourier,
    integrate_iteratively,
    solve_poisson,
)
from pypty.direct_methods.numerics.rotation import attraction, curl_std, rotation_from_com
from pypty.errors import ParameterError
from pypty.experiment import Experiment
from pypty.optics.scan_grid import rotation_yx
from pypty.output.files import make_folder, write_array
from pypty.plots.bright_field import plot_dpc

_LOG = logging.getLogger(__name__)
_DECIDES = 0.2
"""Value of :func:`attraction` below which the half turn is undecided."""


def fft_based_dpc(
    pypty_params: Mapping[str, Any],
    hpass: float = 0,
    lpass: float = 0,
    save: bool = False,
    comx: np.ndarray | None = None,
    comy: np.ndarray | None = None,
    plot: bool = False,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Phase in rad from centres of mass, by Fourier transform.

    Parameters
    ----------
    pypty_params : needs scan_size, scan_step_A, PLRotation_deg and the reciprocal pixel; comx and comy are used if
        present
    hpass, lpass : damping of low and high frequencies, see ``integrate_fourier``; 0 = none
    save, plot : True writes phase, centres of mass and a figure into output_folder/dpc. The figure itself comes from
        ``pypty.plots.plot_dpc``
    comx, comy : (sy, sx) or (N,) centres of mass in detector pixels, instead of those of the parameters or the data

    Returns
    -------
    phase (sy, sx) float64, mean 0, and a copy of the parameters with comx and comy (sy, sx), mean removed

    Raises
    ------
    ParameterError, DataError
        Parameters are wrong or incomplete, or the data cannot be read.
    """
    com_y, com_x, experiment = _centres(pypty_params, comx, comy)
    gradient = _gradient(com_y, com_x, experiment)
    phase = integrate_fourier(gradient[0], gradient[1], hpass, lpass)
    if save or plot:
        _write(pypty_params, phase, gradient, experiment.step_A, "fft_dpc")
    return phase, {**pypty_params, "comx": com_x, "comy": com_y}


def iterative_dpc(
    pypty_params: Mapping[str, Any],
    num_iterations: int = 100,
    beta: float = 0.5,
    hpass: float = 0,
    lpass: float = 0,
    step_size: float = 0.1,
    COMx: np.ndarray | None = None,
    COMy: np.ndarray | None = None,
    px_size: float | None = None,
    print_flag: bool = False,
    save: bool = False,
    select: np.ndarray | None = None,
    plot: bool = False,
    use_backtracking: bool = True,
    pad_width: int = 5,
) -> np.ndarray:
    """Phase in rad from centres of mass, by iteration, without periodic edges of the scan.

    Parameters
    ----------
    num_iterations, beta, step_size, use_backtracking, pad_width : see ``direct_methods.integration.Descent``
    COMx, COMy : (sy, sx) or (N,) detector pixels, instead of those of the parameters or the data
    px_size : scan step in Å; None = scan_step_A
    print_flag : True logs the error of every tenth step
    select : (sy, sx), non-zero where the data count
    save, plot : as in :func:`fft_based_dpc`

    Returns
    -------
    phase (sy, sx) float64, mean 0
    """
    com_y, com_x, experiment = _centres(pypty_params, COMx, COMy)
    if px_size is not None:
        if not px_size > 0:
            raise ParameterError(f"px_size is {px_size!r}, expected the scan step in Å, above 0")
        experiment = experiment.with_(step_A=float(px_size))
    gradient = _gradient(com_y, com_x, experiment)
    options = Descent(
        iterations=num_iterations,
        step=step_size,
        beta=beta,
        backtracking=use_backtracking,
        hpass=hpass,
        lpass=lpass,
        pad=pad_width,
    )
    phase, errors = integrate_iteratively(gradient[0], gradient[1], options, select)
    if print_flag:
        _report("iterative DPC", errors)
    if save or plot:
        _write(pypty_params, phase, gradient, experiment.step_A, "iterative_dpc")
    return phase


def iterative_poisson_solver(
    laplace: np.ndarray,
    num_iterations: int = 100,
    beta: float = 0.5,
    hpass: float = 0,
    lpass: float = 0,
    select: np.ndarray | None = None,
    px_size: float = 1,
    print_flag: bool = False,
    step_size: float = 0.1,
    use_backtracking: bool = True,
    pad_width: int = 1,
) -> np.ndarray:
    """The map (sy, sx) with mean 0 whose Laplacian is ``laplace``, without periodic edges.

    Parameters
    ----------
    laplace : (sy, sx), in units of the result per px_size^2
    others : as in :func:`iterative_dpc`
    """
    if not px_size > 0:
        raise ParameterError(f"px_size is {px_size!r}, expected a length above 0")
    options = Descent(
        iterations=num_iterations,
        step=step_size,
        beta=beta,
        backtracking=use_backtracking,
        hpass=hpass,
        lpass=lpass,
        pad=pad_width,
    )
    # per px_size^2 -> per point^2
    image, errors = solve_poisson(np.asarray(laplace, float) * px_size**2, options, select)
    if print_flag:
        _report("Poisson solver", errors)
    return image


def GetPLRotation(dpcx: np.ndarray, dpcy: np.ndarray) -> float:
    """Rotation between scan and detector in rad, from centres of mass (sy, sx).

    ``PLRotation_deg = numpy.rad2deg(GetPLRotation(comx, comy))``: the sign is that of the positions. (PyPty 2.2 returns
    the opposite one.) Of the two angles half a turn apart, the one for which atoms attract the beam is returned; a
    warning is logged if this is not significant, as with a defocused probe. :func:`pypty.calibrate.orientation` is more
    reliable.
    """
    angle = rotation_from_com(dpcy, dpcx)
    if abs(attraction(dpcy, dpcx, angle)) < _DECIDES:
        _LOG.warning("GetPLRotation: %.2f deg, or half a turn more: the centres of mass cannot decide", angle)
    return float(np.deg2rad(angle))


def get_curl(angle: float, dpcx: np.ndarray, dpcy: np.ndarray) -> float:
    """Standard deviation of the curl of centres of mass (sy, sx), rotated back by ``angle`` (rad)."""
    return curl_std(float(np.rad2deg(angle)), dpcy, dpcx)


def get_curl_derivative(angle: float, dpcx: np.ndarray, dpcy: np.ndarray) -> float:
    """Derivative of :func:`get_curl` by the angle, per rad; 0 where the curl itself vanishes.

    The variance of the curl is c + d cos(2 a + e): its derivative is the difference an eighth turn to each side.
    """
    quarter = get_curl(angle + np.pi / 4, dpcx, dpcy) ** 2 - get_curl(angle - np.pi / 4, dpcx, dpcy) ** 2
    here = get_curl(angle, dpcx, dpcy)
    return quarter / (2 * here) if here > 0 else 0.0


def _centres(
    params: Mapping[str, Any], comx: np.ndarray | None, comy: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Experiment]:
    """Centres of mass (sy, sx) y and x in detector pixels, mean removed: given, recorded, or measured."""
    experiment = Experiment.from_params(params)
    try:
        if (comx is None) != (comy is None):
            raise ParameterError("only one of comx and comy was given; give both, or none")
        centres = (comy, comx) if comx is not None else (params.get("comy"), params.get("comx"))
        if centres[0] is None or centres[1] is None:
            if experiment.settings["masks"] is not None:
                raise ParameterError("sums over virtual detectors have no centre of mass; give comx and comy")
            shape = (experiment.n_patterns, *experiment.pattern_shape)
            # (N, 2) -> two arrays (N,)
            centres = tuple(centres_of_mass(experiment.chunks(), shape).T)
        maps = []
        for name, item in zip(("comy", "comx"), centres, strict=True):
            values = np.array(item, float)
            if values.size != experiment.n_patterns:
                raise ParameterError(
                    f"{name} has {values.size} values, but there are {experiment.n_patterns} patterns"
                )
            maps.append(values.reshape(experiment.scan_size))
    finally:
        experiment.source.close()
    return maps[0] - maps[0].mean(), maps[1] - maps[1].mean(), experiment


def _gradient(com_y: np.ndarray, com_x: np.ndarray, experiment: Experiment) -> np.ndarray:
    """(2, sy, sx) gradient [y, x] of the phase along the axes of the scan, rad per scan point."""
    # px x 1/Å per px -> (2, sy, sx) 1/Å, in the frame of the detector
    field = np.stack([com_y * experiment.pixel_1A[0], com_x * experiment.pixel_1A[1]])
    # detector to scan: the transpose of a rotation is its inverse
    back = rotation_yx(experiment.rotation_deg).T
    return 2 * np.pi * experiment.step_A * np.einsum("ij,jyx->iyx", back, field)


def _report(name: str, errors: np.ndarray) -> None:
    for number in range(0, len(errors), 10):
        _LOG.info("%s: step %d, squared error %.6g", name, number, errors[number])


def _write(
    params: Mapping[str, Any], phase: np.ndarray, gradient: np.ndarray, step_A: float, name: str
) -> None:
    """Phase, centres of mass and figure into output_folder/dpc; nothing without an output folder."""
    if not params.get("output_folder"):
        raise ParameterError(
            "save or plot is set, but output_folder is empty; give a folder, or switch it off"
        )
    folder = make_folder(Path(params["output_folder"]) / "dpc")
    write_array(folder / f"{name}.npy", phase)
    com = gradient / (2 * np.pi * step_A)
    write_array(folder / "com_1A_yx.npy", com)
    plot_dpc(phase, com[0], com[1], step_A).savefig(folder / f"{name}.png")

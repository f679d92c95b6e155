"""Figures of logs, modes, rings and complex images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import DataError, ParameterError
from pypty.optics.probes import spectrum_of_probe
from pypty.output.loss_log import read_loss_log
from pypty.plots import analysis

_CURVES = (
    "loss",
    "sse",
    "matching step",
    "N linesearch iterations",
    "dir. derivative",
    "Constraints contribution",
)


def outputlog_plots(loss_path: str | Path, skip_first: int = 0, plot_time: bool = True) -> list[Any]:
    """One figure per curve of a ``loss.csv``: loss, SSE, steps, evaluations, slope, constraints.

    Parameters
    ----------
    skip_first : number of epochs left out at the start
    plot_time : show the time in s on a second axis at the top

    Returns
    -------
    list of matplotlib Figures

    Raises
    ------
    DataError
        The file is missing, or is not such a log.
    """
    path = Path(loss_path)
    try:
        rows = read_loss_log(path)
        epochs = np.array([float(row["epoch"]) for row in rows])
        curves = {
            name: np.array([float(row[name]) for row in rows]) for name in _CURVES if rows and name in rows[0]
        }
        times = np.array([float(row["time / s"]) for row in rows])
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as loss.csv: {error!r}; give the file of a run"
        ) from error
    if not 0 <= skip_first < len(rows):
        raise ParameterError(
            f"skip_first is {skip_first}, expected less than the {len(rows)} epochs of the log"
        )
    kept = slice(skip_first, None)
    return [
        analysis.plot_curve(epochs[kept], values[kept], name, times[kept] if plot_time else None)
        for name, values in curves.items()
    ]


def plot_modes(ttt: np.ndarray) -> Any:
    """Amplitude and phase, in real space and in reciprocal space, of every mode of a probe or object.

    Parameters
    ----------
    ttt : (y, x, modes) or (y, x, modes, subscans) complex

    Returns
    -------
    matplotlib Figure
    """
    modes = _modes(ttt)
    return analysis.plot_mode_table(
        modes, np.stack([spectrum_of_probe(m) for m in np.moveaxis(modes, -1, 0)], -1)
    )


def plot_complex_modes(p: np.ndarray, nm: int, sub: int) -> Any:
    """The first ``nm`` modes, one image each; brightness shows the amplitude, hue the phase.

    Parameters
    ----------
    p : (y, x, modes) or (y, x, modes, subscans) complex
    sub : number of rows of images

    Returns
    -------
    matplotlib Figure
    """
    modes = _modes(p)
    if not 1 <= nm <= modes.shape[2]:
        raise ParameterError(f"nm is {nm}, expected 1 to {modes.shape[2]}, the number of modes")
    if not 1 <= sub <= nm:
        raise ParameterError(f"sub is {sub}, expected 1 to {nm} rows for {nm} modes")
    rgb = [complex_array_to_rgb(modes[:, :, index]) for index in range(nm)]
    return analysis.plot_pictures(rgb, [f"mode {index}" for index in range(nm)], sub)


def _modes(array: np.ndarray) -> np.ndarray:
    """(y, x, n)."""
    array = np.asarray(array)
    if array.ndim not in (2, 3, 4) or array.size == 0:
        raise ParameterError(
            f"modes of shape {array.shape}, expected (y, x, modes) or (y, x, modes, subscans)"
        )
    return array.reshape(*array.shape[:2], -1)


def complex_pca(data: np.ndarray, n_components: int) -> np.ndarray:
    """(y, x, n_components) complex: principal components of a stack (y, x, observations), the largest first.

    The mean over pixels is subtracted from each observation; the result is the projection onto the leading right
    singular vectors.
    """
    data = np.asarray(data)
    if data.ndim != 3:
        raise ParameterError(f"data of shape {data.shape}, expected (y, x, observations)")
    most = min(data.shape[0] * data.shape[1], data.shape[2])
    if not 1 <= n_components <= most:
        raise ParameterError(f"n_components is {n_components}, expected 1 to {most}")
    flat = data.reshape(-1, data.shape[2]).astype(complex)  # (y x, observations)
    left, values, _ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    return (left[:, :n_components] * values[:n_components]).reshape(*data.shape[:2], n_components)


def complex_array_to_rgb(X: np.ndarray, theme: str = "dark", rmax: float | None = None) -> np.ndarray:
    """(y, x, 3) colours: hue = phase (red 0, green 2 pi/3, blue 4 pi/3), strength = modulus.

    Parameters
    ----------
    theme : "dark": 0 is black; "light": 0 is white
    rmax : modulus shown with full strength; None = the maximum
    """
    if theme not in ("dark", "light"):
        raise ParameterError(f"theme is {theme!r}, expected 'dark' or 'light'")
    if rmax is not None and not rmax > 0:
        raise ParameterError(f"rmax is {rmax!r}, expected a number above 0")
    return analysis.complex_colours(np.asarray(X), theme == "dark", rmax)


def plot_complex_colorwheel(
    ax: Any, theme: str = "dark", N: int = 512, rmax: float = 1.0, fontsize: float = 15, background: float = 0
) -> None:
    """Draw the key to :func:`complex_array_to_rgb` on ``ax``: a disk of N pixels, modulus up to ``rmax``.

    ``background`` is the grey level outside of it, 0 to 1.
    """
    if N < 2 or not 0 <= background <= 1:
        raise ParameterError(
            f"N = {N}, background = {background}; expected N >= 2, and background from 0 to 1"
        )
    y, x = np.mgrid[1 : -1 : 1j * N, -1 : 1 : 1j * N]
    rgb = complex_array_to_rgb(x + 1j * y, theme, 1.0)
    rgb[np.hypot(x, y) > 1] = background
    analysis.draw_colour_wheel(ax, rgb, rmax, fontsize)


def radial_average(
    ff: np.ndarray, r_bins: float, r_max: float, r_min: float, px_size_A: float, plot: bool = True
) -> Any:
    """Mean of an image over rings around its centre n//2.

    Parameters
    ----------
    ff : (y, x) real
    r_bins, r_min, r_max : width of a ring, and range of radii, in the unit of ``px_size_A``
    px_size_A : size of a pixel, Å (or 1/Å)

    Returns
    -------
    With ``plot`` a matplotlib Figure, else (radii, means): central radius of each ring, and its mean, NaN if it has no
    pixels
    """
    image = np.asarray(ff)
    if image.ndim != 2 or np.iscomplexobj(image):
        raise ParameterError(
            f"ff has shape {image.shape} and type {image.dtype}, expected a real image (y, x)"
        )
    if not (r_bins > 0 and px_size_A > 0 and 0 <= r_min < r_max):
        raise ParameterError("expected r_bins > 0, px_size_A > 0 and 0 <= r_min < r_max")
    y, x = ((np.arange(n) - n // 2) * px_size_A for n in image.shape)
    # The tolerance keeps rounding from adding a ring.
    edges = r_min + r_bins * np.arange(int(np.ceil((r_max - r_min) / r_bins - 1e-9)) + 1)
    ring = np.digitize(np.hypot(y[:, None], x), edges) - 1
    inside = (ring >= 0) & (ring < len(edges) - 1)
    counts = np.bincount(ring[inside], minlength=len(edges) - 1)
    sums = np.bincount(ring[inside], image[inside], len(edges) - 1)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    radii = 0.5 * (edges[1:] + edges[:-1])
    return analysis.plot_radial(radii, means) if plot else (radii, means)


def add_scalebar_ax(
    ax: Any,
    x: float,
    y: float,
    width: float,
    height: float,
    x_t: float,
    y_t: float,
    px_size: float,
    unit: str,
    fontsize: float = 20,
) -> None:
    """Draw a scale bar of ``width`` by ``height`` pixels from (x, y), labelled at (x_t, y_t) with its length
    ``width * px_size`` in ``unit``."""
    if not (width > 0 and height > 0 and px_size > 0):
        raise ParameterError("width, height and px_size of a scale bar must be above 0")
    analysis.draw_scale_bar(ax, (x, y, width, height), (x_t, y_t), f"{width * px_size:g} {unit}", fontsize)

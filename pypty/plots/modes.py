"""Starting and current probe modes, in real and reciprocal space."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pypty.plots.figures import _DPI, Lengths, NotebookFigure, add_scale_bar, all_modes

_TITLES = MappingProxyType(
    {
        "r_amp": "probe modes: amplitude",
        "k_amp": "spectra of probe modes: amplitude",
        "k_phase": "spectra of probe modes: -phase x amplitude, +$\\chi$",
    }
)
_LABELS = MappingProxyType(
    {"r_amp": "amplitude / maximum", "k_amp": "amplitude / maximum", "k_phase": "-phase x amplitude / rad"}
)
_CELL = 2.3
_NARROW = 4.2
"""Smallest width of the figure, inches; the title needs it."""
_MOST = 16


def plot_probe_modes(
    start: np.ndarray,
    now: np.ndarray,
    kind: str,
    pixel_size_A: Lengths,
    pixel_mrad: tuple[float, float] | None = None,
) -> Figure:
    """Starting (upper row) and current (lower row) modes with their shares of the power; at most 16 modes.

    Parameters
    ----------
    start, now : (y, x, modes[, subscans]) complex, centred at n//2
    kind : "r_amp" amplitude in real space; "k_amp" amplitude of the spectrum; "k_phase" minus its phase times its
        amplitude, which shows the aberrations chi of a spectrum exp(-i chi)
    pixel_mrad : (ky, kx) pixel size of the spectrum
    """
    rows = [all_modes(probe)[0][..., :_MOST] for probe in (start, now)]
    shares = [_shares(probe) for probe in (start, now)]
    names = all_modes(now)[1]
    columns = rows[1].shape[2]
    figure = NotebookFigure(
        figsize=(max(_CELL * columns + 0.9, _NARROW), 2 * _CELL + 0.9), dpi=_DPI, layout="constrained"
    )
    panels = figure.subplots(2, columns, squeeze=False)
    for row, (modes, share, when) in enumerate(zip(rows, shares, ("start", "now"), strict=True)):
        images = [shown(modes[..., column], kind) for column in range(columns)]
        # Amplitudes relative to the largest of the row; phases are scaled by their own amplitude already.
        scale = 1.0 if kind == "k_phase" else max(float(np.max(images)), 1e-300)
        limit = max(float(np.abs(images).max()), 1e-300)
        for column, image in enumerate(images):
            axes = panels[row, column]
            signed = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
            unsigned = {"cmap": "inferno", "vmin": 0, "vmax": 1}
            drawn = axes.imshow(
                image / scale,
                interpolation="nearest",
                extent=_extent(image.shape, pixel_mrad) if kind != "r_amp" else None,
                aspect="equal" if kind != "r_amp" else pixel_size_A[0] / pixel_size_A[1],
                **(signed if kind == "k_phase" else unsigned),
            )
            axes.set_title(f"{_brief(names[column])}, {when}: {100 * share[column]:.1f} %", fontsize=8)
            _dress(axes, image.shape, kind, pixel_size_A, pixel_mrad, row == 1, column == 0)
        figure.colorbar(drawn, ax=list(panels[row]), label=_LABELS[kind], fraction=0.05, pad=0.02)
    left = len(names) - columns
    figure.suptitle(_TITLES[kind] + (f" ({left} more)" if left else ""), fontsize=10)
    return figure


def shown(mode: np.ndarray, kind: str) -> np.ndarray:
    """(y, x) real: the quantity of a mode shown in a panel."""
    if kind == "r_amp":
        return np.abs(mode)
    # ifftshift moves the centre to pixel (0, 0), so that the phase has no ramp.
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(mode)))
    amplitude = np.abs(spectrum)
    if kind == "k_amp":
        return amplitude
    return -np.angle(spectrum) * amplitude / max(float(amplitude.max()), 1e-300)


def _shares(probe: np.ndarray) -> np.ndarray:
    power = (np.abs(all_modes(probe)[0]) ** 2).sum(axis=(0, 1))  # (y, x, n) -> (n,)
    return power / max(float(power.sum()), 1e-300)


def _brief(name: str) -> str:
    return name.removeprefix("probe ")


def _extent(
    shape: tuple[int, ...], pixel_mrad: tuple[float, float] | None
) -> tuple[float, float, float, float]:
    """Edges of a spectrum with zero frequency at n//2; in pixels if no calibration is given."""
    (ny, nx), (py, px) = shape, pixel_mrad or (1.0, 1.0)
    return (
        (-(nx // 2) - 0.5) * px,
        (nx - nx // 2 - 0.5) * px,
        (ny - ny // 2 - 0.5) * py,
        (-(ny // 2) - 0.5) * py,
    )


def _dress(
    axes: Axes,
    shape: tuple[int, ...],
    kind: str,
    pixel_size_A: Lengths,
    pixel_mrad: tuple[float, float] | None,
    lowest: bool,
    first: bool,
) -> None:
    """Add a scale bar in real space, or angles at the outer panels in reciprocal space."""
    if kind == "r_amp":
        axes.set_xticks([])
        axes.set_yticks([])
        add_scale_bar(axes, pixel_size_A[1], shape[1], shape[0])
        return
    unit = "mrad" if pixel_mrad else "px"
    axes.tick_params(labelsize=7, labelbottom=lowest, labelleft=first)
    if lowest:
        axes.set_xlabel(f"kx / {unit}", fontsize=8)
    if first:
        axes.set_ylabel(f"ky / {unit}", fontsize=8)
